//! One try: fetch a file, put it where it belongs. It knows nothing of PostgreSQL.

use civic_http::{Cancel, Error, Kind, Media, MediaSource, Stat, StorageApi};

use super::job::Outcome;

/// The two services between which media travels.
pub struct Services {
    pub storage: StorageApi,
    pub source: MediaSource,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Task {
    pub media_url: String,
    pub bucket: String,
    pub path: String,
    /// A bucket where an earlier try may have left the file. It is not removed there: see [`sweep`].
    pub former_bucket: Option<String>,
}

/// A file that is where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub content_type: String,
    pub size: u64,
}

/// Why it is not. The message holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub outcome: Outcome,
    pub message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let outcome = match error.kind() {
            Kind::Cancelled => Outcome::Cancelled,
            _ => Outcome::Refused {
                may_heal: error.is_transient(),
                retry_after: error.retry_after(),
            },
        };
        Failure { outcome, message: error.message().to_owned() }
    }
}

impl Failure {
    fn of_target(may_heal: bool, message: impl Into<String>) -> Failure {
        let outcome = Outcome::Refused { may_heal, retry_after: None };
        Failure { outcome, message: message.into() }
    }
}

/// Fetches and uploads. What is in the former bucket is taken from there, and what an earlier try has
/// stored counts: the source may have lost the file by now.
pub fn transfer(services: &Services, task: &Task, cancel: &Cancel) -> Result<Stored, Failure> {
    let Services { storage, source } = services;
    if let Some(former_bucket) = &task.former_bucket
        && let Some(media) = storage.download(former_bucket, &task.path, cancel)?
    {
        return store(services, task, media, cancel);
    }
    let error = match source.fetch(&task.media_url, cancel) {
        Ok(media) => return store(services, task, media, cancel),
        Err(error) => error,
    };
    if error.kind() != Kind::Cancelled {
        let found = storage.stat(&task.bucket, &task.path, cancel)?;
        if let Some(Stat { content_type: Some(content_type), size }) = found {
            return Ok(Stored { content_type, size });
        }
    }
    Err(error.into())
}

/// Removes a file from where it must not be any more. That it is not there is as good.
pub fn sweep(storage: &StorageApi, bucket: &str, path: &str) -> Result<(), Error> {
    storage.remove(bucket, path, &Cancel::new()).map(drop)
}

/// The target's name holds a UUID of its own, so an object that is there already is of an earlier try
/// whose answer, or whose record, was lost; that it is the whole file is verified.
fn store(
    services: &Services,
    task: &Task,
    media: Media,
    cancel: &Cancel,
) -> Result<Stored, Failure> {
    let stored = Stored { content_type: media.content_type, size: media.body.len() as u64 };
    let Task { bucket, path, .. } = task;
    match services.storage.upload(bucket, path, &stored.content_type, media.body, cancel) {
        Ok(_) => Ok(stored),
        Err(error) if error.kind() == Kind::Duplicate => {
            match services.storage.stat(bucket, path, cancel)? {
                Some(found) if found.size != stored.size => Err(Failure::of_target(
                    false,
                    format!(
                        "there is an object of {} bytes at the job's path, and the file has {}",
                        found.size, stored.size
                    ),
                )),
                Some(found)
                    if found.content_type.as_ref().is_some_and(|it| *it != stored.content_type) =>
                {
                    let message =
                        "there is an object of another content type at the job's path".to_owned();
                    Err(Failure::of_target(false, message))
                }
                Some(_) => Ok(stored),
                None => Err(Failure::of_target(
                    true,
                    "the Storage API says both that the object is there and that it is not",
                )),
            }
        }
        Err(error) => Err(error.into()),
    }
}
