//! What host and helper say to each other over their socket: each frame a head of fixed length and
//! a payload, which is the same JSON that crosses the C border. Nothing is interpreted here.

use std::io::{self, Read, Write};

use crate::wire::MAX_MESSAGE_BYTES;

/// Kind, length of the payload, number, status: each in the byte order of this machine, which both
/// sides run on, and are the same program.
const HEAD_BYTES: usize = 4 + 4 + 8 + 4;

/// What a frame says. The number is the operation's where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Helper: the file is loaded; the payload is a `Hello`.
    Loaded = 1,
    /// Helper: the file is not loaded; the payload says why, for people.
    NotLoaded,
    /// Host: make the instance; the payload is its configuration.
    Create,
    /// Helper: it is made.
    Created,
    /// Helper: it is not made; the payload is an error.
    NotCreated,
    /// Host: an operation; the payload is the request.
    Submit,
    /// Helper: the plugin did not take the operation; its status.
    Refused,
    /// Host: cancel the operation.
    Cancel,
    /// Helper: the operation has ended; its status, and the payload is the answer.
    Complete,
    /// Helper: the same, with an answer that is longer than a message may be.
    CompleteTooLong,
    /// Helper: an event.
    Event,
    /// Helper: a log line; the status is its level.
    Log,
    /// Helper: the plugin does not return; the payload says from what, for people. It ends then.
    Hung,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Loaded,
        Self::NotLoaded,
        Self::Create,
        Self::Created,
        Self::NotCreated,
        Self::Submit,
        Self::Refused,
        Self::Cancel,
        Self::Complete,
        Self::CompleteTooLong,
        Self::Event,
        Self::Log,
        Self::Hung,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    pub(crate) status: i32,
    pub(crate) payload: Vec<u8>,
}

/// Writes one frame at once, so that those of several threads do not mix where each holds the
/// writer.
pub(crate) fn write(
    to: &mut impl Write,
    kind: Kind,
    number: u64,
    status: i32,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_MESSAGE_BYTES);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend_from_slice(&(kind as u32).to_ne_bytes());
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&number.to_ne_bytes());
    bytes.extend_from_slice(&status.to_ne_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// `None` where the other side has ended before a frame began.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD_BYTES];
    match from.read_exact(&mut head[..1]) {
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        begun => begun?,
    }
    from.read_exact(&mut head[1..])?;
    let (kind, rest) = head.split_first_chunk().expect("a head holds its kind");
    let (length, rest) = rest.split_first_chunk().expect("a head holds its length");
    let (number, rest) = rest.split_first_chunk().expect("a head holds its number");
    let (status, _) = rest.split_first_chunk().expect("a head holds its status");
    let kind = u32::from_ne_bytes(*kind);
    let kind = Kind::ALL.into_iter().find(|known| *known as u32 == kind);
    let kind = kind.ok_or_else(|| io::Error::other("a frame of no known kind"))?;
    let length = u32::from_ne_bytes(*length) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::other("a frame that is too long"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    let (number, status) = (u64::from_ne_bytes(*number), i32::from_ne_bytes(*status));
    Ok(Some(Frame { kind, number, status, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_is_none() {
        let mut bytes = Vec::new();
        for (position, kind) in Kind::ALL.into_iter().enumerate() {
            write(&mut bytes, kind, u64::MAX - position as u64, -1, &vec![7; position]).unwrap();
        }
        let mut from = bytes.as_slice();
        for (position, kind) in Kind::ALL.into_iter().enumerate() {
            let (number, payload) = (u64::MAX - position as u64, vec![7; position]);
            let expected = Frame { kind, number, status: -1, payload };
            assert_eq!(read(&mut from).unwrap(), Some(expected));
        }
        assert_eq!(read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_frame_that_is_cut_off_unknown_or_too_long_is_an_error_and_takes_no_memory() {
        let mut whole = Vec::new();
        write(&mut whole, Kind::Event, 1, 0, b"null").unwrap();
        for length in 1..whole.len() {
            read(&mut &whole[..length]).unwrap_err();
        }
        let mut unknown = whole.clone();
        unknown[..4].copy_from_slice(&99_u32.to_ne_bytes());
        assert!(read(&mut unknown.as_slice()).unwrap_err().to_string().contains("kind"));
        whole[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(read(&mut whole.as_slice()).unwrap_err().to_string().contains("too long"));
        let long = vec![0; MAX_MESSAGE_BYTES + 1];
        write(&mut Vec::new(), Kind::Event, 1, 0, &long).unwrap_err();
    }
}
