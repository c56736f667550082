//! What a child's standard input, output and error are.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// What a child's standard input, output or error is, as [`std::process::Stdio`] (which does not tell what is in it).
#[derive(Debug)]
pub struct Stdio(Kind);

#[derive(Debug)]
enum Kind {
    Inherit,
    Null,
    Piped,
    Given(OwnedFd),
}

impl Stdio {
    /// That of this process. Standard output and error are so unless something else is said.
    #[must_use]
    pub const fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// Nothing to be read, and what is written vanishes. Standard input is so unless something else is said.
    #[must_use]
    pub const fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe to this process, whose end is in the field of that name of [`Process`](super::Process). Read it while the child
    /// runs: a full pipe holds the child.
    #[must_use]
    pub const fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// The child's end, if it is not inherited, and ours, if there is one.
    pub(super) fn open(self, is_input: bool) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        Ok(match self.0 {
            Kind::Inherit => (None, None),
            Kind::Null => {
                let null = File::options()
                    .read(is_input)
                    .write(!is_input)
                    .open("/dev/null")?;
                (Some(null.into()), None)
            }
            Kind::Piped => {
                let (reader, writer) = io::pipe()?;
                match is_input {
                    true => (Some(reader.into()), Some(writer.into())),
                    false => (Some(writer.into()), Some(reader.into())),
                }
            }
            Kind::Given(descriptor) => (Some(descriptor), None),
        })
    }
}

impl From<OwnedFd> for Stdio {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Kind::Given(descriptor))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self(Kind::Given(file.into()))
    }
}

impl From<io::PipeReader> for Stdio {
    fn from(pipe: io::PipeReader) -> Self {
        Self(Kind::Given(pipe.into()))
    }
}

impl From<io::PipeWriter> for Stdio {
    fn from(pipe: io::PipeWriter) -> Self {
        Self(Kind::Given(pipe.into()))
    }
}
