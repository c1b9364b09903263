//! Buckets, paths, the firewall, and the storage service.

mod access_settings;
mod differential;
mod firewall;
mod paths;
mod ranges;
mod service;
