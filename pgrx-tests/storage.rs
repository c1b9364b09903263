//! Buckets, paths, the firewall, and the storage service.

mod access_settings;
mod anonymous;
mod differential;
mod firewall;
mod listing;
mod paths;
mod ranges;
pub mod service;
