//! How PostgREST answers an error of the database: the HTTP status of an SQLSTATE.
//!
//! As of PostgREST 14 (its documentation, "Errors", and `mapSQLtoHTTP` in its source). The first row that
//! fits decides. What no row names is 400.

/// The start of an SQLSTATE, and its status.
const STATUSES: [(&str, u16); 33] = [
    ("08", 503),
    ("09", 500),
    ("0L", 403),
    ("0P", 403),
    ("23503", 409),
    ("23505", 409),
    ("25006", 405),
    ("21000", 500),
    ("22023", 400),
    ("25", 500),
    ("28", 403),
    ("2D", 500),
    ("38", 500),
    ("39", 500),
    ("3B", 500),
    ("40", 500),
    ("53400", 500),
    ("53", 503),
    ("54", 500),
    ("55", 500),
    ("57P01", 503),
    ("57", 500),
    ("58", 500),
    ("F0", 500),
    ("HV", 500),
    ("P0001", 400),
    ("P0", 500),
    ("XX", 500),
    ("42883", 404),
    ("42P01", 404),
    ("42P17", 500),
    ("42501", 403),
    ("", 400),
];

/// The status for a caller who has logged in; `anon` gets 401 for 42501. `PTxyz` is xyz.
pub fn status(sqlstate: &str) -> u16 {
    if let Some(status) = sqlstate.strip_prefix("PT") {
        return status.parse().unwrap_or(500);
    }
    let row = STATUSES.iter().find(|(start, _)| sqlstate.starts_with(start));
    row.expect("the last row fits all").1
}
