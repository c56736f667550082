//! A key in a file, as CZMQ and pyzmq write it. **Pure**.
//!
//! ```text
//! # who and when, for people
//! curve
//!     public-key = "…40 characters…"
//!     secret-key = "…"                  only in NAME.key_secret
//! ```

use zeroize::Zeroizing;

use super::{BadKey, KeyPair, PublicKey};

/// Why a certificate cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// There is no such line.
    #[error("it has no line {0} = \"…\"; make keys with procession keygen")]
    Missing(&'static str),
    /// There is one, and it is no key.
    #[error("its {0} is none: {1}")]
    Key(&'static str, BadKey),
}

const PUBLIC: &str = "public-key";
const SECRET: &str = "secret-key";

/// The text of a certificate without the secret.
pub fn public_text(key: PublicKey, comment: &str) -> String {
    format!("# {comment}\ncurve\n    {PUBLIC} = \"{key}\"\n")
}

/// The text of a certificate with the secret.
pub fn secret_text(pair: &KeyPair, comment: &str) -> Zeroizing<String> {
    let (public, secret) = pair.to_z85();
    Zeroizing::new(format!(
        "# {comment}\ncurve\n    {PUBLIC} = \"{public}\"\n    {SECRET} = \"{}\"\n",
        secret.as_str()
    ))
}

/// The public key of a certificate.
pub fn read_public(text: &str) -> Result<PublicKey, BadCertificate> {
    let public = value(text, PUBLIC)?;
    public
        .parse()
        .map_err(|why| BadCertificate::Key(PUBLIC, why))
}

/// Both keys of a certificate.
pub fn read_pair(text: &str) -> Result<KeyPair, BadCertificate> {
    read_public(text)?;
    let (public, secret) = (value(text, PUBLIC)?, value(text, SECRET)?);
    KeyPair::from_z85(public, secret).map_err(|why| BadCertificate::Key(SECRET, why))
}

fn value<'a>(text: &'a str, name: &'static str) -> Result<&'a str, BadCertificate> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(name))
        .find_map(|rest| rest.trim_start().strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']))
        .ok_or(BadCertificate::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<(), Box<dyn std::error::Error>> {
        let pair = KeyPair::generate()?;
        let text = secret_text(&pair, "mine");
        let read = read_pair(&text)?;
        assert_eq!(read.public(), pair.public());
        assert_eq!(read.secret_bytes(), pair.secret_bytes());
        assert_eq!(read_public(&public_text(pair.public(), ""))?, pair.public());
        Ok(())
    }

    #[test]
    fn certificates_of_pyzmq_are_read() -> Result<(), Box<dyn std::error::Error>> {
        // The keys of ZeroMQ's RFC 32 and of libzmq's own tests.
        let text = "#   ****  Generated on 2026-01-01 by pyzmq  ****\n\nmetadata\n    name = \"x\"\ncurve\n    \
                    public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n    \
                    secret-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n";
        let pair = read_pair(text)?;
        assert_eq!(
            pair.public().to_string(),
            "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
        );
        Ok(())
    }

    #[test]
    fn what_is_no_certificate_is_named_without_the_secret() {
        for (text, part) in [
            ("", "no line public-key"),
            ("public-key = \"short\"", "public-key is none"),
            (
                "public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"",
                "no line secret-key",
            ),
            (
                "public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\nsecret-key = \"D:)Q[IlAW\"",
                "secret-key is none",
            ),
        ] {
            let error = read_pair(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("D:)Q"), "{error}");
        }
    }
}
