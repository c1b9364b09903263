//! The cases, in order.

mod calls;
mod links;
mod media;
mod reads;
mod realtime;
mod relay;
mod rows;
mod trigger;
mod uploads;

use crate::Error;
use crate::measure::Progress;
use crate::report::Comparison;
use crate::server::Server;

type Case = fn(&Server, &mut Progress) -> Result<Vec<Comparison>, Error>;

pub const ALL: [(&str, Case); 9] = [
    ("a claim, row by row", calls::measure),
    ("the trigger on an INSERT of many tickets", trigger::measure),
    ("the policies on an INSERT of many objects", uploads::measure),
    ("single tickets and the relay", relay::measure),
    ("signed links", links::measure),
    ("media jobs", media::measure),
    ("reads of a tenant's folder among many", reads::measure),
    ("rows of protected tables", rows::measure),
    ("tickets published through realtime", realtime::measure),
];
