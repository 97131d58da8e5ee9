//! Framing: each message follows its length as an unsigned varint.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Longest frame that is taken in, in bytes: more than twice CometBFT's greatest block.
pub const MAX_FRAME_BYTES: u64 = 256 << 20;

/// A varint of a length that may be taken in has no more bytes.
const MAX_PREFIX_BYTES: usize = 5;

/// Why bytes are not a frame. The connection is of no use after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is not a varint of at most five bytes.
    #[error("frame length is not a varint")]
    Prefix,
    /// The frame is longer than [`MAX_FRAME_BYTES`].
    #[error("frame of {length} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong {
        /// What the prefix says.
        length: u64,
    },
    /// The frame does not hold the message.
    #[error("failed to decode frame")]
    Decode(#[from] prost::DecodeError),
}

/// Takes the next message out of `buffer`, if it is there as a whole.
///
/// Nothing is reserved for a length that is only claimed: the buffer grows as bytes arrive.
///
/// # Errors
/// [`FrameError`] if this can never become a message.
pub fn decode<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, FrameError> {
    let Some((prefix, length)) = read_prefix(buffer)? else {
        return Ok(None);
    };
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { length });
    }
    let length = usize::try_from(length).map_err(|_| FrameError::TooLong { length })?;
    if buffer.len() - prefix < length {
        return Ok(None);
    }
    buffer.advance(prefix);
    let frame: Bytes = buffer.split_to(length).freeze();
    Ok(Some(M::decode(frame)?))
}

/// Appends a message to `buffer`.
pub fn encode<M: Message>(message: &M, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(length + MAX_PREFIX_BYTES);
    prost::encoding::encode_varint(length as u64, buffer);
    // Fails only for want of room, and a growing buffer has room.
    let written = message.encode(&mut buffer.limit(length));
    debug_assert!(
        written.is_ok(),
        "a buffer that was reserved takes the message"
    );
}

/// The length of the prefix and what it says, or nothing while it is incomplete.
fn read_prefix(buffer: &[u8]) -> Result<Option<(usize, u64)>, FrameError> {
    let mut length = 0_u64;
    for (place, byte) in buffer.iter().take(MAX_PREFIX_BYTES).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((place + 1, length)));
        }
    }
    if buffer.len() < MAX_PREFIX_BYTES {
        Ok(None)
    } else {
        Err(FrameError::Prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::abci::RequestEcho;

    fn echo(message: &str) -> RequestEcho {
        RequestEcho {
            message: message.into(),
        }
    }

    #[test]
    fn a_frame_may_arrive_in_any_pieces() {
        let mut whole = BytesMut::new();
        let messages = [echo("a"), echo(&"long ".repeat(100)), echo("")];
        messages
            .iter()
            .for_each(|message| encode(message, &mut whole));
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut seen = Vec::new();
            let mut drain = |buffer: &mut BytesMut| {
                while let Some(message) = decode::<RequestEcho>(buffer).unwrap() {
                    seen.push(message);
                }
            };
            drain(&mut buffer);
            buffer.extend_from_slice(&whole[cut..]);
            drain(&mut buffer);
            assert_eq!(seen, messages);
        }
    }

    #[test]
    fn lengths_are_capped_before_anything_is_reserved() {
        let mut long = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0x0f][..]);
        assert!(matches!(
            decode::<RequestEcho>(&mut long),
            Err(FrameError::TooLong { .. })
        ));
        let mut endless = BytesMut::from(&[0x80; 5][..]);
        assert!(matches!(
            decode::<RequestEcho>(&mut endless),
            Err(FrameError::Prefix)
        ));
        let mut claimed = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f, 0x0a][..]);
        assert!(decode::<RequestEcho>(&mut claimed).unwrap().is_none());
        assert!(claimed.capacity() < 1_024);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<RequestEcho>(&mut buffer) {}
        }
    }
}
