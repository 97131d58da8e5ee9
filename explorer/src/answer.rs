//! Answers: JSON, bounded in time and number, and the reason when there is none.

use std::{future::Future, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use counterpoint_service::sequencer::ClientError;
use serde::Serialize;
use serde_json::json;
use tonic::{Code, Status};
use tracing::{debug, warn};

use crate::Explorer;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The question makes no sense.
    #[error("{0}")]
    Question(String),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// Too many ask.
    #[error("too many readers at the moment: try again in a few seconds")]
    Busy,
    /// It takes too long.
    #[error("no answer within {} seconds", PATIENCE.as_secs())]
    Slow,
    /// Nobody answers who should.
    #[error("{0}")]
    Away(String),
    /// A node answered with what it should not.
    #[error("a sequencer node answered with a malformed {0}")]
    Malformed(&'static str),
}

impl Trouble {
    fn status(&self) -> StatusCode {
        match self {
            Self::Question(_) => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Busy | Self::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
            Self::Malformed(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        debug!(error = %self, "no answer");
        let status = self.status();
        let mut response = (status, Json(json!({ "error": self.to_string() }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        let said = status.message().to_owned();
        match status.code() {
            Code::NotFound | Code::OutOfRange => Self::Unknown(said),
            Code::InvalidArgument => Self::Question(said),
            Code::ResourceExhausted => Self::Busy,
            _ => {
                warn!(error = %status, "no sequencer node answers");
                Self::Away("no sequencer node answers at the moment".into())
            }
        }
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Status { status, .. } => (*status).into(),
            other => {
                warn!(error = %other, "no sequencer node answers");
                Self::Away("no sequencer node answers at the moment".into())
            }
        }
    }
}

impl Explorer {
    /// Answers a question, if there is a place for it and it does not take too long.
    pub(crate) async fn answer<T: Serialize>(
        &self,
        question: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<Json<T>, Trouble> {
        let _place = self.0.questions.try_acquire().map_err(|_| Trouble::Busy)?;
        let answered = tokio::time::timeout(PATIENCE, question).await;
        answered.map_err(|_| Trouble::Slow)?.map(Json)
    }
}
