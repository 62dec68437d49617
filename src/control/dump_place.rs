//! Where the last dumps of deleted tenants go: a directory, or a bucket of an S3-compatible store.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// What a bucket is written as.
const SCHEME: &str = "s3";
/// What the names of objects may have beside letters and digits: no store and no tool escapes these.
const PLAIN: &str = "-_.";

/// Where last dumps go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DumpPlace {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket. Credentials, region and endpoint are the environment's.
    Bucket {
        /// Its name.
        bucket: String,
        /// What the names of dumps there begin with: folders with `/` between them, or nothing.
        prefix: String,
    },
}

impl TryFrom<String> for DumpPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() {
                Err(refused("it is empty"))
            } else {
                Ok(Self::Directory(text.into()))
            };
        };
        if scheme != SCHEME {
            return Err(refused("only stores that speak S3 are written to"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // The text itself is not repeated: somebody may have written a password into it.
        if !is_plain(bucket) {
            return Err(refused(
                "the bucket's name has letters, digits, '-', '_' and '.'; keys are no part of it",
            ));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_plain) {
            return Err(refused("each part of the prefix has letters, digits, '-', '_' and '.'"));
        }
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for DumpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "{SCHEME}://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "{SCHEME}://{bucket}/{prefix}"),
        }
    }
}

fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    !matches!(part, "" | "." | "..") && part.chars().all(allowed)
}

fn refused(why: &str) -> String {
    format!("{why}; write a directory's path, or s3://bucket/prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<DumpPlace, String> {
        DumpPlace::try_from(text.to_owned())
    }

    #[test]
    fn a_path_is_a_directory_and_a_url_a_bucket() {
        assert_eq!(place("/var/lib/dumps"), Ok(DumpPlace::Directory("/var/lib/dumps".into())));
        for (given, shown) in
            [("s3://b", "s3://b"), ("s3://b/", "s3://b"), ("s3://b.c/d_1/e-2/", "s3://b.c/d_1/e-2")]
        {
            assert_eq!(place(given).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_bad_url_is_refused_with_what_to_write_and_without_what_it_held() {
        let bad = [
            "",
            "s3://",
            "s3:///x",
            "https://b/p",
            "S3://b",
            "s3://key:hunter2@b",
            "s3://b//p",
            "s3://b/../p",
        ];
        for text in bad.into_iter().chain(["s3://b/p?x=1", "s3://b/a b"]) {
            let why = place(text).unwrap_err();
            assert!(why.contains("s3://bucket/prefix") && !why.contains("hunter2"), "{text}: {why}");
        }
    }
}
