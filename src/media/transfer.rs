//! HTTP of an attempt: fetch a file and store it, or move files out of the open. It knows nothing of
//! PostgreSQL.

use civic_http::{
    Cancel, Entry, Error, Kind, LIST_PAGE, Media, MediaSource, Place, Stat, StorageApi,
};

use super::job::{Attempt, Moved, Outcome};
use crate::pg::shared::counters::ErrorClass;
use crate::storage::bucket::Bucket;

/// The services between which media travels.
pub struct Services {
    pub storage: StorageApi,
    /// `None` where Twilio is not configured: files can be moved then, and not fetched.
    pub source: Option<MediaSource>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Task {
    Fetch { media_url: String, bucket: String, path: String },
    Restrict(Restrict),
}

/// The files of a ticket that have to be out of the open.
#[derive(Debug, Clone, Default)]
pub struct Restrict {
    /// `{tenant}/{ticket}`; `None` where these cannot be a path.
    pub folder: Option<String>,
    /// Bucket and path of the files that are recorded with the ticket.
    pub recorded: Vec<(String, String)>,
    /// Why not all of them are known.
    pub error: Option<String>,
}

/// A file that is where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub content_type: String,
    pub size: u64,
}

/// Files, and bytes of their paths, that one attempt takes on: what it has moved is one request to the
/// process that updates attachments.
const FILES_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 24 * 1024;
/// How deep folders are looked into, and how many entries are looked at.
const DEPTH: usize = 4;
const ENTRIES: usize = 64 * LIST_PAGE;

const RESTRICTED: &str = Bucket::for_media(true).id();

/// Makes one attempt.
pub fn perform(services: &Services, task: &Task, cancel: &Cancel) -> Attempt {
    match task {
        Task::Fetch { media_url, bucket, path } => {
            match fetch(services, media_url, bucket, path, cancel) {
                Ok(Stored { content_type, size }) => Attempt::stored(content_type, size),
                Err(error) => failed(error),
            }
        }
        Task::Restrict(restrict) => restrict_files(&services.storage, restrict, cancel),
    }
}

fn failed(error: Error) -> Attempt {
    let outcome = match error.kind() {
        Kind::Cancelled => Outcome::Cancelled,
        _ => Outcome::Refused {
            is_transient: error.is_transient(),
            retry_after: error.retry_after(),
            class: class(error.kind()),
        },
    };
    Attempt { error: Some(error.message().to_owned()), ..Attempt::new(outcome) }
}

const fn class(kind: Kind) -> ErrorClass {
    match kind {
        Kind::Unreachable => ErrorClass::Unreachable,
        Kind::TimedOut => ErrorClass::TimedOut,
        Kind::CutShort => ErrorClass::CutShort,
        Kind::Busy => ErrorClass::Busy,
        Kind::ServerError => ErrorClass::ServerError,
        Kind::Malformed => ErrorClass::Malformed,
        Kind::MediaNotFound | Kind::NotFound => ErrorClass::NotFound,
        Kind::Duplicate => ErrorClass::Conflict,
        Kind::Unauthorized | Kind::MediaUnauthorized => ErrorClass::Unauthorized,
        Kind::TooLarge => ErrorClass::TooLarge,
        Kind::UnsupportedType => ErrorClass::UnsupportedType,
        Kind::Refused => ErrorClass::RefusedHost,
        Kind::Certificate => ErrorClass::Certificate,
        Kind::Rejected => ErrorClass::Rejected,
        Kind::Cancelled | Kind::Invalid => ErrorClass::Invalid,
    }
}

/// Fetches a file and stores it. What an earlier attempt has stored counts: the source may have lost the
/// file. Where it was stored in the open, it is moved from there.
fn fetch(
    services: &Services,
    media_url: &str,
    bucket: &str,
    path: &str,
    cancel: &Cancel,
) -> Result<Stored, Error> {
    let Services { storage, source } = services;
    if bucket == RESTRICTED
        && let Some(stored) = moved_before(storage, path, cancel)?
    {
        return Ok(stored);
    }
    let Some(source) = source else {
        return Err(Error::new(Kind::Invalid, "the source of media is not configured"));
    };
    let error = match source.fetch(media_url, cancel) {
        Ok(media) => return store(storage, bucket, path, media, cancel),
        Err(error) => error,
    };
    if error.kind() != Kind::Cancelled {
        let found = storage.stat(bucket, path, cancel)?;
        if let Some(Stat { content_type: Some(content_type), size }) = found {
            return Ok(Stored { content_type, size });
        }
    }
    Err(error)
}

/// A sensitive file that an earlier attempt has stored in the open, before its ticket was sensitive.
fn moved_before(
    storage: &StorageApi,
    path: &str,
    cancel: &Cancel,
) -> Result<Option<Stored>, Error> {
    let evidence = Bucket::for_media(false).id();
    match move_out(storage, Place { bucket: evidence, path }, cancel)? {
        Found::Moved { target } if target == path => {}
        Found::Moved { .. } | Found::Nowhere => return Ok(None),
        Found::Restricted => {}
    }
    let found = storage.stat(RESTRICTED, path, cancel)?;
    Ok(found
        .and_then(|Stat { content_type, size }| Some(Stored { content_type: content_type?, size })))
}

/// Stores a file. The target's name holds a UUID of its own, so an object that is there already is of an
/// earlier attempt whose answer, or whose record, was lost; that it is the whole file is verified.
pub fn store(
    storage: &StorageApi,
    bucket: &str,
    path: &str,
    media: Media,
    cancel: &Cancel,
) -> Result<Stored, Error> {
    let stored = Stored { content_type: media.content_type, size: media.body.len() as u64 };
    let conflict = |message: String| Err(Error::new(Kind::Duplicate, message));
    match storage.upload(bucket, path, &stored.content_type, media.body, cancel) {
        Ok(_) => Ok(stored),
        Err(error) if error.kind() == Kind::Duplicate => {
            match storage.stat(bucket, path, cancel)? {
                Some(found) if found.size != stored.size => conflict(format!(
                    "there is an object of {} bytes at the job's path, and the file has {}",
                    found.size, stored.size
                )),
                Some(Stat { content_type: Some(other), .. }) if other != stored.content_type => {
                    conflict(
                        "there is an object of another content type at the job's path".to_owned(),
                    )
                }
                Some(_) => Ok(stored),
                None => Err(Error::new(
                    Kind::Malformed,
                    "the Storage API says both that the object is there and that it is not",
                )),
            }
        }
        Err(error) => Err(error),
    }
}

/// Moves what it finds of a ticket's files. A file that fails holds up no other.
fn restrict_files(storage: &StorageApi, restrict: &Restrict, cancel: &Cancel) -> Attempt {
    let mut attempt = Attempt::new(Outcome::Clean);
    let mut failure = None;
    let mut bytes = 0;
    let is_open = |bucket: &str| Bucket::OPEN.iter().any(|open| open.id() == bucket);
    let mut files: Vec<(String, String, bool)> = vec![];
    for (bucket, path) in &restrict.recorded {
        // A row that is updated already may have been so before its file arrived.
        let places = match is_open(bucket) {
            true => vec![(bucket.clone(), true)],
            false => Bucket::OPEN.map(|open| (open.id().to_owned(), false)).to_vec(),
        };
        files.extend(places.into_iter().map(|(bucket, is_row)| (bucket, path.clone(), is_row)));
    }
    for bucket in Bucket::OPEN {
        let Some(folder) = &restrict.folder else { break };
        match list(storage, bucket.id(), folder, cancel) {
            Ok(paths) => {
                files.extend(paths.into_iter().map(|path| (bucket.id().to_owned(), path, false)));
            }
            Err(error) => failure = Some(error),
        }
    }
    files.sort_by(|one, other| (&one.0, &one.1, !one.2).cmp(&(&other.0, &other.1, !other.2)));
    files.dedup_by(|one, other| one.0 == other.0 && one.1 == other.1);
    for (bucket, path, is_row) in files {
        if attempt.moved.len() >= FILES_AT_ONCE || bytes >= BYTES_AT_ONCE {
            break;
        }
        let target = match move_out(storage, Place { bucket: &bucket, path: &path }, cancel) {
            Ok(Found::Moved { target }) => target,
            // Its row is to follow, wherever the file is: nothing else comes to this place.
            Ok(Found::Restricted | Found::Nowhere) if is_row => path.clone(),
            Ok(Found::Restricted | Found::Nowhere) => continue,
            // A path that cannot be asked for holds nothing.
            Err(error) if error.kind() == Kind::Invalid && is_row => path.clone(),
            Err(error) if error.kind() == Kind::Invalid => continue,
            Err(error) => {
                let is_of_one_request = is_of_one_request(error.kind());
                failure = Some(error);
                if is_of_one_request {
                    continue;
                }
                break;
            }
        };
        bytes += path.len() + target.len();
        attempt.moved.push(Moved { bucket, path, target });
        attempt.outcome = Outcome::Moved;
    }
    let moved = std::mem::take(&mut attempt.moved);
    match (failure, &restrict.error) {
        (Some(error), _) => Attempt { moved, ..failed(error) },
        (None, Some(error)) => {
            Attempt { moved, ..Attempt::failed(ErrorClass::Attachments, error.clone()) }
        }
        (None, None) => Attempt { moved, ..attempt },
    }
}

/// The paths of all files in a folder.
fn list(
    storage: &StorageApi,
    bucket: &str,
    folder: &str,
    cancel: &Cancel,
) -> Result<Vec<String>, Error> {
    let (mut found, mut seen) = (vec![], 0);
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for page in 0.. {
            let entries = match storage.list(bucket, &folder, page * LIST_PAGE, cancel) {
                // A name that cannot be asked for cannot have been stored by it.
                Err(error) if error.kind() == Kind::Invalid && depth > 0 => break,
                entries => entries?,
            };
            let is_last = entries.len() < LIST_PAGE;
            seen += entries.len();
            for Entry { name, is_folder } in entries {
                let path = format!("{folder}/{name}");
                if !is_folder {
                    found.push(path);
                } else if depth < DEPTH {
                    folders.push((path, depth + 1));
                }
            }
            if is_last || seen >= ENTRIES {
                break;
            }
        }
    }
    Ok(found)
}

/// What became of a file that must not be in an open bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// It was there, and is in the restricted bucket now, at this path.
    Moved { target: String },
    /// It was not there. The restricted bucket has one of its path.
    Restricted,
    /// It is in neither.
    Nowhere,
}

/// Moves a file to the restricted bucket. It is removed from the open one only when the restricted one has
/// an object of its size, so that each step can be repeated after a crash.
///
/// The path stays. Where the restricted bucket has another file of that path, the size becomes part of the
/// name, and both are kept.
fn move_out(storage: &StorageApi, from: Place<'_>, cancel: &Cancel) -> Result<Found, Error> {
    let stat = |place: Place<'_>| storage.stat(place.bucket, place.path, cancel);
    let at = |path: &str| stat(Place { bucket: RESTRICTED, path });
    let Some(file) = stat(from)? else {
        return Ok(if at(from.path)?.is_some() { Found::Restricted } else { Found::Nowhere });
    };
    let is_it = |found: Option<Stat>| found.is_some_and(|found| found.size == file.size);
    let (target, mut is_there) = match at(from.path)? {
        Some(other) if other.size != file.size => {
            let target = beside(from.path, file.size);
            let is_there = is_it(at(&target)?);
            (target, is_there)
        }
        found => (from.path.to_owned(), found.is_some()),
    };
    let to = Place { bucket: RESTRICTED, path: &target };
    let mut last = Error::new(Kind::Malformed, "the Storage API has not moved a file");
    for way in [move_by_api, copy_by_api, copy_by_hand] {
        if is_there {
            break;
        }
        match way(storage, from, to, cancel) {
            Ok(()) => {}
            // The API may be unable to do this, and able to do the next.
            Err(error) if is_of_one_request(error.kind()) => last = error,
            Err(error) => return Err(error),
        }
        is_there = is_it(at(&target)?);
    }
    if !is_there {
        // Somebody may have removed it meanwhile.
        return if stat(from)?.is_none() { Ok(Found::Nowhere) } else { Err(last) };
    }
    storage.remove(from.bucket, from.path, cancel)?;
    Ok(Found::Moved { target })
}

/// Whether the next request may succeed all the same, as the service is there and takes the key.
fn is_of_one_request(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Cancelled
            | Kind::Unreachable
            | Kind::TimedOut
            | Kind::Busy
            | Kind::Unauthorized
            | Kind::Certificate
    )
}

fn move_by_api(
    storage: &StorageApi,
    from: Place<'_>,
    to: Place<'_>,
    cancel: &Cancel,
) -> Result<(), Error> {
    storage.move_to(from, to, cancel)
}

fn copy_by_api(
    storage: &StorageApi,
    from: Place<'_>,
    to: Place<'_>,
    cancel: &Cancel,
) -> Result<(), Error> {
    storage.copy_to(from, to, cancel)
}

fn copy_by_hand(
    storage: &StorageApi,
    from: Place<'_>,
    to: Place<'_>,
    cancel: &Cancel,
) -> Result<(), Error> {
    match storage.download(from.bucket, from.path, cancel)? {
        Some(Media { content_type, body }) => {
            storage.upload(to.bucket, to.path, &content_type, body, cancel).map(drop)
        }
        None => Ok(()),
    }
}

/// A name for a second file of this path. It is the same at each attempt.
fn beside(path: &str, size: u64) -> String {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name..].rfind('.').filter(|dot| *dot > 0) {
        Some(dot) => format!("{}-{size}{}", &path[..name + dot], &path[name + dot..]),
        None => format!("{path}-{size}"),
    }
}
