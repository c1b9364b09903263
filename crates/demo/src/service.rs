//! The storage service: uploads, links and WhatsApp media without an application server. Storage and
//! Twilio are fakes on this machine.

use civic_fake_services::{Client as Http, Object, Options, Storage, Twilio};
use postgres::{Client, Error};

use crate::people::Server;
use crate::story::{Story, refused};
use crate::{ETHEKWINI, TSHWANE, fields};

const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const TOKEN: &str = "a-twilio-token";
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 a burst pipe in Church Street";

/// The settings with their URLs and credentials.
const SETTINGS: [&str; 6] = [
    "civic.supabase_url",
    "civic.service_key",
    "civic.jwt_secret",
    "civic.twilio_account_sid",
    "civic.twilio_auth_token",
    "civic.media_hosts",
];

/// The fake external services. They run until the value is dropped.
pub struct Outside {
    storage: Storage,
    twilio: Twilio,
}

impl Outside {
    /// Starts them, and sets their URLs and credentials as an operator does.
    pub fn start(story: &mut Story, server: &Server, owner: &mut Client) -> Result<Outside, Error> {
        story.chapter("The operator configures Storage and Twilio");
        // The real API writes a row for each stored file.
        let rows = std::sync::Mutex::new(server.connect("postgres")?);
        let on_upload = move |object: &Object| {
            let mut rows = rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Err(error) = record(&mut rows, object) {
                eprintln!("the fake Storage API could not write a row: {error}");
            }
        };
        let options = Options { on_upload: Some(Box::new(on_upload)), ..Options::default() };
        let outside =
            Outside { storage: Storage::start(options), twilio: Twilio::start(ACCOUNT, TOKEN) };
        let values = [
            (&*outside.storage.project_url(), false),
            (outside.storage.service_key(), true),
            (outside.storage.jwt_secret(), true),
            (ACCOUNT, false),
            (TOKEN, true),
            (&*outside.twilio.hosts(), false),
        ];
        for (setting, (value, is_secret)) in SETTINGS.into_iter().zip(values) {
            let shown = if is_secret { "…" } else { value };
            story.statement(&format!("ALTER SYSTEM SET {setting} = '{shown}'"));
            owner.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{value}'"))?;
        }
        server.reload(owner)?;
        Ok(outside)
    }

    /// Stops them and resets the settings that refer to them.
    pub fn end(self, story: &mut Story, server: &Server, owner: &mut Client) -> Result<(), Error> {
        for setting in SETTINGS {
            owner.batch_execute(&format!("ALTER SYSTEM RESET {setting}"))?;
        }
        server.reload(owner)?;
        story.note("Storage and Twilio stop here, and their settings are reset.");
        Ok(())
    }

    pub fn upload(&self, story: &mut Story, server: &Server) -> Result<(), Error> {
        story.chapter("A citizen uploads a photo without an application server");
        let mut citizen = server.person(TSHWANE, "citizen")?;
        let requested = citizen.value(&format!(
            "SELECT civic.request_upload('burst pipe.jpg', 'image/jpeg', {}, 'evidence')::text",
            PHOTO.len()
        ))?;
        let (bucket, path) = (fields(&requested, &["bucket"]), fields(&requested, &["path"]));
        let file_id = fields(&requested, &["file_id"]);
        story.step(
            "The citizen requests a path for the photo",
            &format!("evidence {TSHWANE}/{file_id}/burst pipe.jpg"),
            &format!("{bucket} {path}"),
            None,
        );
        let confirm = format!("SELECT civic.confirm_upload('{file_id}', 'evidence')::text");
        story.step(
            "It cannot be confirmed before it is uploaded",
            &refused("PT404"),
            &citizen.outcome_of(&confirm),
            None,
        );
        let video = "SELECT civic.request_upload('holiday.mp4', 'video/mp4', 1000, 'evidence')";
        story.step(
            "A type that citizens may not upload is refused",
            &refused("22023"),
            &citizen.outcome_of(video),
            None,
        );

        self.storage.keep(&bucket, &path, "image/jpeg", PHOTO);
        let uploaded = citizen.upload_file(&bucket, &path, "image/jpeg", PHOTO.len());
        story.step("The browser uploads it to this path", "1 row", &uploaded, None);
        let confirmed = citizen.value(&confirm)?;
        story.step(
            "It is confirmed: name, type and size are those of the stored file",
            &format!("burst pipe.jpg image/jpeg {}", PHOTO.len()),
            &fields(&confirmed, &["filename", "content_type", "file_size"]),
            None,
        );

        let link = format!("SELECT civic.get_signed_url('{bucket}', '{path}', 600)");
        let url = citizen.value(&link)?;
        story.statement(&link);
        story.note(&url);
        story.step("The link opens the file", &opened(PHOTO), &open(&url), None);
        let forged = url.replace("burst%20pipe", "another");
        story.step("The link opens no other file", "400", &open(&forged), None);
        let mut neighbour = server.person(ETHEKWINI, "admin")?;
        story.step(
            "An admin of eThekwini requests a link to it and does not learn that it exists",
            &refused("PT404"),
            &neighbour.outcome_of(&link),
            None,
        );
        Ok(())
    }

    pub fn whatsapp(
        &self,
        story: &mut Story,
        server: &Server,
        owner: &mut Client,
    ) -> Result<(), Error> {
        story.chapter("Photos arrive over WhatsApp");
        let pipe = ticket(owner, false)?;
        let violence = ticket(owner, true)?;
        let channel = format!("media_jobs:{TSHWANE}");
        let mut dashboard = server.listener(&[&channel])?;
        let mut liaisons_desk = server.listener(&[&format!("{channel}:sensitive")])?;
        let mut webhook = server.service()?;
        let mut arrive = |story: &mut Story, ticket: &str| {
            let url = self.twilio.offer("image/jpeg", PHOTO);
            let statement = format!(
                "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{ticket}', '{TSHWANE}')::text"
            );
            story.statement(&statement);
            webhook.value(&statement)
        };

        arrive(story, &pipe)?;
        let event = dashboard.next_event()?;
        story.step(
            "Twilio's webhook is answered at once; the worker fetches the photo and stores it",
            &format!("done evidence {}", PHOTO.len()),
            &fields(&event, &["state", "bucket", "file_size"]),
            Some(&event),
        );
        let mut citizen = server.person(TSHWANE, "citizen")?;
        let link =
            format!("SELECT civic.get_signed_url('evidence', '{}')", fields(&event, &["path"]));
        story.step("The link opens the photo", &opened(PHOTO), &open(&citizen.value(&link)?), None);

        arrive(story, &violence)?;
        let event = liaisons_desk.next_event()?;
        story.step(
            "A photo of violence whose webhook did not mark it: it goes to gbv-evidence",
            &format!("done gbv-evidence {}", PHOTO.len()),
            &fields(&event, &["state", "bucket", "file_size"]),
            Some(&event),
        );
        let path = fields(&event, &["path"]);
        let link = format!("SELECT civic.get_signed_url('gbv-evidence', '{path}')");
        let mut manager = server.person(TSHWANE, "manager")?;
        story.step(
            "The manager gets no link to it",
            &refused("PT404"),
            &manager.outcome_of(&link),
            None,
        );
        let mut liaison = server.person(TSHWANE, "saps_liaison")?;
        story.step("The liaison gets one", &opened(PHOTO), &open(&liaison.value(&link)?), None);
        let jobs = "SELECT 'jobs: ' || count(*) FROM civic.media_jobs";
        story.step("The manager sees the one job", "jobs: 1", &manager.value(jobs)?, None);
        story.step(
            "An admin of eThekwini sees none",
            "jobs: 0",
            &server.person(ETHEKWINI, "admin")?.value(jobs)?,
            None,
        );

        let elsewhere =
            "SELECT civic.enqueue_media('https://169.254.169.254/latest', 'image/jpeg', 'x', 'y')";
        story.step(
            "An address that is not Twilio's is refused",
            &refused("22023"),
            &webhook.outcome_of(elsewhere),
            None,
        );
        Ok(())
    }
}

/// Creates a ticket of Tshwane and returns its id.
fn ticket(owner: &mut Client, is_sensitive: bool) -> Result<String, Error> {
    let statement =
        "INSERT INTO public.tickets (tenant_id, tracking_number, category, status, is_sensitive)
         VALUES ($1, 'TKT-' || substr(gen_random_uuid()::text, 1, 8), $2, 'open', $3)
         RETURNING id::text";
    let category = if is_sensitive { "gbv" } else { "water" };
    Ok(owner.query_one(statement, &[&TSHWANE, &category, &is_sensitive])?.get(0))
}

/// Writes the row of a stored file, as the real API does.
fn record(rows: &mut Client, object: &Object) -> Result<(), Error> {
    let statement = "INSERT INTO storage.objects (bucket_id, name, metadata)
                     VALUES ($1, $2, jsonb_build_object('size', $3::bigint, 'mimetype', $4::text))";
    let size = object.body.len() as i64;
    rows.execute(statement, &[&object.bucket, &object.path, &size, &object.content_type])?;
    Ok(())
}

fn opened(body: &[u8]) -> String {
    format!("200, {} bytes", body.len())
}

/// The response that a browser gets.
fn open(url: &str) -> String {
    match Http::get(url) {
        Ok((200, body)) => opened(&body),
        Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body)),
        Err(error) => error.to_string(),
    }
}
