# Two images: the one program of Counterpoint, and the CometBFT that it is tested with.
#
#   docker build --target counterpoint --tag counterpoint:0.1.0 .
#   docker build --target cometbft --tag cometbft:v0.40.0 .

FROM rust:1.95-slim-bookworm AS build-counterpoint
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# Of this package alone: with the tests', it would know rules that are for tests.
RUN cargo build --release --locked --package counterpoint --bin counterpoint

FROM gcr.io/distroless/cc-debian12:nonroot AS counterpoint
COPY --from=build-counterpoint /source/target/release/counterpoint /usr/bin/counterpoint
USER 65532:65532
ENTRYPOINT ["/usr/bin/counterpoint"]

FROM golang:1.26-bookworm AS build-cometbft
RUN CGO_ENABLED=0 go install -trimpath github.com/cometbft/cometbft/cmd/cometbft@v0.40.0

FROM gcr.io/distroless/static-debian12:nonroot AS cometbft
COPY --from=build-cometbft /go/bin/cometbft /usr/bin/cometbft
USER 65532:65532
ENTRYPOINT ["/usr/bin/cometbft"]
