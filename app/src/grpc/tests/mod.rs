mod bundles;
mod clients;
mod retention;
