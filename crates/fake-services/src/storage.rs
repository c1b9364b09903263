//! A fake Storage API: the routes that are called with the service key, with the real API's responses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::answer::Answer;
use crate::jwt;
use crate::request::Request;
use crate::server::FakeServer;
use crate::sync::{Gate, lock};

mod options;

pub use options::{Entry, Errors, Moves, Options};

/// The API's path under the project's URL.
const ROOT: &str = "/storage/v1";
/// The default limit of the real API.
const SIZE_LIMIT: usize = 50 * 1024 * 1024;

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub id: String,
    pub bucket: String,
    pub path: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

pub struct Storage {
    server: FakeServer,
    state: Arc<State>,
}

struct State {
    options: Options,
    service_key: String,
    objects: Mutex<BTreeMap<String, Object>>,
    /// Responses that are sent without handling the request.
    failures: Mutex<VecDeque<Answer>>,
    /// Responses that are sent instead of the true one, after the request was handled.
    afterwards: Mutex<VecDeque<Option<Answer>>>,
    gate: Mutex<Option<Gate>>,
}

impl Storage {
    pub fn start(options: Options) -> Storage {
        let service_key = options.service_key.clone().unwrap_or_else(|| {
            jwt::sign(&options.jwt_secret, r#"{"role":"service_role","iss":"supabase"}"#)
        });
        let objects = Mutex::new(options.directory.as_deref().map(disk::load).unwrap_or_default());
        let port = options.port;
        let state = Arc::new(State {
            options,
            service_key,
            objects,
            failures: Mutex::default(),
            afterwards: Mutex::default(),
            gate: Mutex::default(),
        });
        let server = FakeServer::listen(port, {
            let state = Arc::clone(&state);
            move |request| state.answer(request).later(state.options.latency)
        });
        Storage { server, state }
    }

    /// The API's URL.
    pub fn url(&self) -> String {
        self.server.url(ROOT)
    }

    /// The project's URL, without the API's path.
    pub fn project_url(&self) -> String {
        self.server.url("")
    }

    pub fn service_key(&self) -> &str {
        &self.state.service_key
    }

    pub fn jwt_secret(&self) -> &str {
        &self.state.options.jwt_secret
    }

    /// The server, with the requests so far.
    pub fn server(&self) -> &FakeServer {
        &self.server
    }

    pub fn objects(&self) -> Vec<Object> {
        lock(&self.state.objects).values().cloned().collect()
    }

    pub fn object(&self, bucket: &str, path: &str) -> Option<Object> {
        lock(&self.state.objects).get(&format!("{bucket}/{path}")).cloned()
    }

    /// Stores a file as if a browser had uploaded it.
    pub fn keep(&self, bucket: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) {
        let key = format!("{bucket}/{path}");
        let object = Object {
            id: uuid(&key),
            bucket: bucket.to_owned(),
            path: path.to_owned(),
            content_type: content_type.to_owned(),
            body: body.into(),
        };
        lock(&self.state.objects).insert(key, object);
    }

    /// Forgets all files and requests.
    pub fn clear(&self) {
        lock(&self.state.objects).clear();
        self.server.clear();
    }

    /// Sends these responses first, one per request, without handling the requests.
    pub fn fails_first(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.failures).extend(answers);
    }

    /// Handles the next requests, but sends these responses instead of the true ones: the client does not
    /// see the result.
    pub fn answers_instead(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.afterwards).extend(answers.into_iter().map(Some));
    }

    /// The same for one answer, after so many true ones.
    pub fn answers_instead_at(&self, place: usize, answer: Answer) {
        let mut afterwards = lock(&self.state.afterwards);
        afterwards.extend((0..place).map(|_| None));
        afterwards.push_back(Some(answer));
    }

    /// Stores the files that are uploaded, and holds the responses back until the gate is opened.
    pub fn holds(&self) -> Gate {
        let gate = Gate::new();
        *lock(&self.state.gate) = Some(gate.clone());
        gate
    }

    /// A file is gone.
    pub fn forget(&self, bucket: &str, path: &str) {
        lock(&self.state.objects).remove(&format!("{bucket}/{path}"));
    }
}

impl State {
    fn answer(&self, request: &Request) -> Answer {
        if let Some(failure) = lock(&self.failures).pop_front() {
            return failure;
        }
        let answer = self.act(request).unwrap_or_else(|refusal| refusal);
        lock(&self.afterwards).pop_front().flatten().unwrap_or(answer)
    }

    fn act(&self, request: &Request) -> Result<Answer, Answer> {
        let path = request.path();
        let rest = path.strip_prefix(ROOT).and_then(|path| path.strip_prefix("/object/"));
        let rest = rest.ok_or_else(|| self.refusal(404, "not_found", "Route not found"))?;
        let route = (request.method.as_str(), rest.split_once('/'));
        if let ("GET", Some(("sign", object))) = route {
            return self.download(request, object);
        }
        self.admit(request).map_err(|why| self.refusal(403, "Unauthorized", why))?;
        match route {
            ("POST", Some(("sign", object))) => self.sign(request, object),
            ("POST", Some(("list", bucket))) => Ok(self.list(request, bucket)),
            ("POST", None) if matches!(rest, "move" | "copy") => {
                self.send_to(request, rest == "move")
            }
            ("GET", Some(("info", object))) => match object.strip_prefix("authenticated/") {
                Some(object) => self.info(object),
                None => Err(self.refusal(404, "not_found", "Route not found")),
            },
            ("GET", Some(("authenticated", object))) => {
                self.found(object).map(|found| Answer::file(&found.content_type, found.body))
            }
            ("POST", Some((bucket, path))) => self.upload(request, bucket, path),
            ("DELETE", Some(_)) => self.remove(rest),
            _ => Err(self.refusal(404, "not_found", "Route not found")),
        }
    }

    /// The API's reason to refuse a request.
    fn admit(&self, request: &Request) -> Result<(), &'static str> {
        let bearer =
            request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if self.options.entry == Entry::Gateway {
            if request.header("apikey") != Some(&self.service_key) {
                return Err("Invalid API key");
            }
            if bearer.is_none() && !jwt::has_form(&self.service_key) {
                return Ok(());
            }
        }
        match bearer {
            None => Err("headers must have required property 'authorization'"),
            Some(token) if !jwt::has_form(token) => Err("Invalid Compact JWS"),
            Some(token) if token == self.service_key => Ok(()),
            Some(_) => Err("signature verification failed"),
        }
    }

    /// An error in the form of this version of the API.
    fn refusal(&self, code: u16, error: &str, message: &str) -> Answer {
        let status = if self.options.errors == Errors::AsStatus { code } else { 400 };
        let code = code.to_string();
        Answer::json(status, &json!({"statusCode": code, "error": error, "message": message}))
    }

    fn found(&self, object: &str) -> Result<Object, Answer> {
        let found = lock(&self.objects).get(object).cloned();
        found.ok_or_else(|| self.refusal(404, "not_found", "Object not found"))
    }

    fn upload(&self, request: &Request, bucket: &str, path: &str) -> Result<Answer, Answer> {
        let refuse = |code, error, message| Err(self.refusal(code, error, message));
        let buckets = BTreeSet::from(["evidence", "documents", "gbv-evidence"]);
        if !buckets.contains(bucket) {
            return refuse(404, "Bucket not found", "Bucket not found");
        }
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_/!.*'() &$@=;:+,?-".contains(c);
        if path.is_empty() || !path.chars().all(is_key) {
            return refuse(400, "InvalidKey", &format!("Invalid key: {path}"));
        }
        if request.body.len() > SIZE_LIMIT {
            return refuse(
                413,
                "Payload too large",
                "The object exceeded the maximum allowed size",
            );
        }
        let key = format!("{bucket}/{path}");
        let mut objects = lock(&self.objects);
        if objects.contains_key(&key) && request.header("x-upsert") != Some("true") {
            return refuse(409, "Duplicate", "The resource already exists");
        }
        let object = Object {
            id: uuid(&key),
            bucket: bucket.to_owned(),
            path: path.to_owned(),
            content_type: request.header("content-type").unwrap_or_default().to_owned(),
            body: request.body.clone(),
        };
        if let Some(directory) = &self.options.directory {
            disk::store(directory, &object);
        }
        if let Some(on_upload) = &self.options.on_upload {
            on_upload(&object);
        }
        let answer = Answer::json(200, &json!({"Key": key, "Id": object.id}));
        objects.insert(key, object);
        drop(objects);
        let gate = lock(&self.gate).clone();
        if let Some(gate) = gate {
            gate.wait();
        }
        Ok(answer)
    }

    fn send_to(&self, request: &Request, is_move: bool) -> Result<Answer, Answer> {
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let moves = self.options.moves;
        let bucket = match moves {
            Moves::Missing => return Err(self.refusal(404, "not_found", "Route not found")),
            Moves::CopyOnly if is_move => {
                return Err(self.refusal(400, "Error", "cannot move to another bucket"));
            }
            Moves::WithinBucket => text("bucketId"),
            Moves::CopyOnly | Moves::AcrossBuckets => text("destinationBucket"),
        };
        let from = format!("{}/{}", text("bucketId"), text("sourceKey"));
        let key = format!("{bucket}/{}", text("destinationKey"));
        let mut objects = lock(&self.objects);
        let Some(object) = objects.get(&from).cloned() else {
            return Err(self.refusal(404, "not_found", "Object not found"));
        };
        if from != key {
            if objects.contains_key(&key) {
                return Err(self.refusal(409, "Duplicate", "The resource already exists"));
            }
            let path = text("destinationKey");
            let sent = Object { id: uuid(&key), bucket, path, ..object.clone() };
            if let Some(directory) = &self.options.directory {
                disk::store(directory, &sent);
            }
            objects.insert(key.clone(), sent);
            if is_move {
                objects.remove(&from);
                if let Some(directory) = &self.options.directory {
                    disk::remove(directory, &object);
                }
            }
        }
        // The real one's schema leaves nothing but the message of a move.
        let answer =
            if is_move { json!({"message": "Successfully moved"}) } else { json!({"Key": key}) };
        Ok(Answer::json(200, &answer))
    }

    fn list(&self, request: &Request, bucket: &str) -> Answer {
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let prefix = format!("{bucket}/{}", asked["prefix"].as_str().unwrap_or_default());
        let number = |key: &str, other| asked[key].as_u64().unwrap_or(other) as usize;
        let objects = lock(&self.objects);
        let names =
            objects.iter().filter_map(|(key, object)| Some((key.strip_prefix(&prefix)?, object)));
        let mut entries = BTreeMap::new();
        for (name, object) in names {
            match name.split_once('/') {
                Some((folder, _)) => entries.insert(folder.to_owned(), Value::Null),
                None => entries.insert(name.to_owned(), Value::from(object.id.as_str())),
            };
        }
        let page = entries.into_iter().skip(number("offset", 0)).take(number("limit", 100));
        let page: Vec<_> = page.map(|(name, id)| json!({"name": name, "id": id})).collect();
        Answer::json(200, &Value::from(page))
    }

    fn remove(&self, object: &str) -> Result<Answer, Answer> {
        let removed = lock(&self.objects).remove(object);
        let removed = removed.ok_or_else(|| self.refusal(404, "not_found", "Object not found"))?;
        if let Some(directory) = &self.options.directory {
            disk::remove(directory, &removed);
        }
        Ok(Answer::json(200, &json!({"message": "Successfully deleted"})))
    }

    fn info(&self, object: &str) -> Result<Answer, Answer> {
        let object = self.found(object)?;
        Ok(Answer::json(
            200,
            &json!({
                "id": object.id,
                "name": object.path,
                "bucket_id": object.bucket,
                "size": object.body.len(),
                "content_type": object.content_type,
            }),
        ))
    }

    fn sign(&self, request: &Request, object: &str) -> Result<Answer, Answer> {
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let Some(seconds) = asked["expiresIn"].as_u64().filter(|seconds| *seconds > 0) else {
            return Err(self.refusal(400, "Error", "body/expiresIn must be >= 1"));
        };
        self.found(object)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let url = Value::from(object);
        let payload =
            format!(r#"{{"url":{url},"scope":"download","iat":{now},"exp":{}}}"#, now + seconds);
        let token = jwt::sign(&self.options.jwt_secret, &payload);
        let signed_url = format!("/object/sign/{object}?token={token}");
        Ok(Answer::json(200, &json!({"signedURL": signed_url})))
    }

    fn download(&self, request: &Request, object: &str) -> Result<Answer, Answer> {
        let refuse = |message| Err(self.refusal(400, "InvalidJWT", message));
        let token = request.query("token").unwrap_or_default();
        let Some(payload) = jwt::verify(&self.options.jwt_secret, token) else {
            return refuse("signature verification failed");
        };
        let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if payload["exp"].as_u64().is_none_or(|expiry| expiry <= now) {
            return refuse("\"exp\" claim timestamp check failed");
        }
        if payload["url"] != object {
            return refuse("Invalid signature");
        }
        let object = self.found(object)?;
        Ok(Answer::file(&object.content_type, object.body))
    }
}

/// An id in the form of a UUID, always the same for a name.
fn uuid(name: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let [a, b, c, d, e] = [&hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]];
    format!("{a}-{b}-4{c}-8{d}-{e}")
}

/// Files that outlive the process. Each is a line of JSON, followed by the body. It is written under a
/// temporary name and then renamed.
mod disk {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::Object;

    pub fn store(directory: &Path, object: &Object) {
        let head = json!({
            "id": object.id,
            "bucket": object.bucket,
            "path": object.path,
            "content_type": object.content_type,
        });
        let mut bytes = format!("{head}\n").into_bytes();
        bytes.extend_from_slice(&object.body);
        fs::create_dir_all(directory).expect("the directory can be made");
        let unfinished = directory.join(format!(".{}", object.id));
        fs::write(&unfinished, bytes).expect("the file can be written");
        fs::rename(&unfinished, directory.join(&object.id)).expect("it can be moved");
    }

    pub fn remove(directory: &Path, object: &Object) {
        fs::remove_file(directory.join(&object.id)).expect("the file can be removed");
    }

    pub fn load(directory: &Path) -> BTreeMap<String, Object> {
        let Ok(files) = fs::read_dir(directory) else { return BTreeMap::new() };
        let files = files.map_while(Result::ok).map(|file| file.path());
        let is_finished = |path: &std::path::PathBuf| {
            path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
        };
        files.filter(is_finished).map(|path| read(&path)).collect()
    }

    fn read(path: &Path) -> (String, Object) {
        let bytes = fs::read(path).expect("the file can be read");
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("it has a head");
        let head: Value = serde_json::from_slice(&bytes[..end]).expect("its head is JSON");
        let text = |key: &str| head[key].as_str().unwrap_or_default().to_owned();
        let object = Object {
            id: text("id"),
            bucket: text("bucket"),
            path: text("path"),
            content_type: text("content_type"),
            body: bytes[end + 1..].to_vec(),
        };
        (format!("{}/{}", object.bucket, object.path), object)
    }
}
