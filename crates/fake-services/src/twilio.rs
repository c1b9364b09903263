//! A fake Twilio. The API requires the account's credentials and redirects to another host, which sends
//! the file without credentials.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::answer::Answer;
use crate::request::Request;
use crate::server::FakeServer;
use crate::sync::{Gate, lock};

pub struct Twilio {
    api: FakeServer,
    media: FakeServer,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    account_sid: String,
    authorization: String,
    /// The response for each file's name.
    files: Mutex<BTreeMap<String, Answer>>,
    failures: Mutex<VecDeque<Answer>>,
    latency: Mutex<Duration>,
    gate: Mutex<Option<Gate>>,
}

impl Twilio {
    pub fn start(account_sid: &str, auth_token: &str) -> Twilio {
        let pair = BASE64_STANDARD.encode(format!("{account_sid}:{auth_token}"));
        let state = Arc::new(State {
            account_sid: account_sid.to_owned(),
            authorization: format!("Basic {pair}"),
            ..State::default()
        });
        let media = FakeServer::start({
            let state = Arc::clone(&state);
            move |request| state.file(request)
        });
        let api = FakeServer::start({
            let (state, media) = (Arc::clone(&state), media.url(""));
            move |request| state.redirect(request, &media)
        });
        Twilio { api, media, state }
    }

    /// Offers a file. Returns its URL, like the one in the webhook.
    pub fn offer(&self, content_type: &str, body: impl Into<Vec<u8>>) -> String {
        self.offer_answer(Answer::file(content_type, body))
    }

    /// Offers a response of the host that sends the files.
    pub fn offer_answer(&self, answer: Answer) -> String {
        let mut files = lock(&self.state.files);
        let media = format!("ME{:032x}", files.len());
        files.insert(media.clone(), answer);
        let account = &self.state.account_sid;
        self.api.url(&format!("/2010-04-01/Accounts/{account}/Messages/MM0/Media/{media}"))
    }

    /// The value for `civic.media_hosts`: the API first, then the host that sends the files.
    pub fn hosts(&self) -> String {
        format!("{}, {}", self.api.host(), self.media.host())
    }

    /// The API sends these responses first, one per request.
    pub fn fails_first(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.failures).extend(answers);
    }

    /// Sets how long each host takes to respond.
    pub fn takes(&self, latency: Duration) {
        *lock(&self.state.latency) = latency;
    }

    /// Holds the responses of both hosts back until the gate is opened.
    pub fn holds(&self) -> Gate {
        let gate = Gate::new();
        *lock(&self.state.gate) = Some(gate.clone());
        gate
    }

    pub fn api(&self) -> &FakeServer {
        &self.api
    }

    pub fn media(&self) -> &FakeServer {
        &self.media
    }
}

impl State {
    fn redirect(&self, request: &Request, media: &str) -> Answer {
        if let Some(failure) = lock(&self.failures).pop_front() {
            return failure;
        }
        if request.header("authorization") != Some(&self.authorization) {
            return Answer::json(401, &json!({"code": 20003, "message": "Authenticate"}));
        }
        let path = request.path();
        let file = path.rsplit('/').next().unwrap_or_default();
        if !lock(&self.files).contains_key(file) {
            return Answer::json(404, &json!({"code": 20404, "message": "not found"}));
        }
        let location = format!("{media}/{}/{file}?Signature=signed", self.account_sid);
        self.in_time(Answer::redirect(&location))
    }

    fn file(&self, request: &Request) -> Answer {
        // The object store behind the real host refuses a signed URL together with credentials.
        if request.header("authorization").is_some() {
            return Answer::new(400).body("Only one auth mechanism allowed");
        }
        if request.query("Signature") != Some("signed") {
            return Answer::new(403);
        }
        let path = request.path();
        let file = path.rsplit('/').next().unwrap_or_default();
        let answer = lock(&self.files).get(file).cloned();
        self.in_time(answer.unwrap_or_else(|| Answer::new(404)))
    }

    fn in_time(&self, answer: Answer) -> Answer {
        let gate = lock(&self.gate).clone();
        if let Some(gate) = gate {
            gate.wait();
        }
        answer.later(*lock(&self.latency))
    }
}
