//! How a user's value becomes the bytes of a task or result, and back.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::body::{Body, BodyWriter, IN_MEMORY};

/// A value that can be a task or a result.
///
/// Every type that serde can write and read is one: it travels as MessagePack, structs as arrays. [`Body`] is one too, for
/// bytes that are sent as they are, and types that do not fit in memory can bring their own form.
pub trait Payload: Sized + Send + 'static {
    /// The bytes of this value. `scratch` is a buffer that the caller keeps between calls, so that small values share one
    /// allocation.
    ///
    /// # Errors
    /// A text that says why the value cannot be encoded.
    fn into_body(self, scratch: &mut BytesMut) -> Result<Body, String>;

    /// The value of these bytes.
    ///
    /// # Errors
    /// A text that says why the bytes are not such a value.
    fn from_body(body: Body) -> Result<Self, String>;
}

/// Small values are cut out of a buffer of this size; a value that lives long keeps its buffer, so it is not large.
const SHARED: usize = 16 << 10;

impl<T: Serialize + DeserializeOwned + Send + 'static> Payload for T {
    fn into_body(self, scratch: &mut BytesMut) -> Result<Body, String> {
        scratch.clear();
        if scratch.capacity() < 256 {
            scratch.reserve(SHARED);
        }
        rmp_serde::encode::write(&mut scratch.writer(), &self)
            .map_err(|error| format!("cannot encode {}: {error}", std::any::type_name::<T>()))?;
        if scratch.len() > IN_MEMORY {
            let mut writer = BodyWriter::new();
            std::io::Write::write_all(&mut writer, scratch)
                .and_then(|()| writer.finish())
                .map_err(|error| format!("cannot keep {} bytes: {error}", scratch.len()))
        } else {
            Ok(Body::Memory(scratch.split().freeze()))
        }
    }

    fn from_body(body: Body) -> Result<Self, String> {
        decode(&body)
    }
}

impl Payload for Body {
    fn into_body(self, _: &mut BytesMut) -> Result<Body, String> {
        Ok(self)
    }

    fn from_body(body: Body) -> Result<Self, String> {
        Ok(body)
    }
}

/// The value of these bytes.
pub(crate) fn decode<T: DeserializeOwned>(body: &Body) -> Result<T, String> {
    let bytes = body
        .to_bytes()
        .map_err(|error| format!("cannot read it back: {error}"))?;
    rmp_serde::from_slice(&bytes).map_err(|error| {
        format!(
            "{} bytes are not a {}: {error}",
            bytes.len(),
            std::any::type_name::<T>()
        )
    })
}
