//! The users to whom a ticket belongs (`civic.ticket_owner_columns`), and their topics.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::channel::{Channel, owner_topic};
use crate::pg;
use crate::pg::trigger::{Columns, Form, Row, Tables, TriggerCall};
use crate::settings::{self, EventTransport, OWNER_COLUMNS};

/// Where a table has the columns that name the owners.
pub type OwnerColumns = Columns<OWNER_COLUMNS>;

thread_local! {
    /// The tables as the setting of this generation names their columns.
    static TABLES: RefCell<Option<(u64, Tables<OWNER_COLUMNS>)>> = const { RefCell::new(None) };
    /// A transaction, and whether Realtime was installed at its first ticket.
    static IS_INSTALLED: Cell<Option<(u32, bool)>> = const { Cell::new(None) };
}

/// Whether Supabase Realtime is installed, looked up once per transaction and not for each row.
fn is_installed() -> bool {
    let transaction = pg::transaction_number();
    if let Some((of, is_installed)) = IS_INSTALLED.get()
        && of == transaction
    {
        return is_installed;
    }
    let is_installed = pg::realtime::is_installed();
    IS_INSTALLED.set(Some((transaction, is_installed)));
    is_installed
}

/// `None` if the table has none of the columns, or if there is no Supabase Realtime to send to.
pub fn columns(call: &TriggerCall<'_>) -> Option<Rc<OwnerColumns>> {
    let access = settings::access();
    let transport = access.event_transport;
    if access.ticket_owner_columns.is_empty()
        || !transport.has_realtime()
        || transport == EventTransport::Auto && !is_installed()
    {
        return None;
    }
    let names = |place: usize| access.ticket_owner_columns.get(place).cloned().unwrap_or_default();
    TABLES.with_borrow_mut(|tables| {
        if tables.as_ref().is_none_or(|(generation, _)| *generation != settings::generation()) {
            *tables = Some((settings::generation(), Tables::new(std::array::from_fn(names))));
        }
        let (_, tables) = tables.as_ref()?;
        let columns = call.columns(tables);
        columns.has_any().then_some(columns)
    })
}

/// The topics of the owners that a row names, each once. A value that cannot be a user's id has no topic.
pub fn topics(row: &Row<'_, OWNER_COLUMNS>, columns: &OwnerColumns) -> Vec<Channel> {
    let (mut topics, mut text) = (vec![], vec![]);
    for column in 0..OWNER_COLUMNS {
        text.clear();
        if !matches!(row.append(column, &mut text), Form::Text | Form::Number) {
            continue;
        }
        let id = std::str::from_utf8(&text).unwrap_or_default();
        let id = if columns.is_padded(column) { id.trim_end_matches(' ') } else { id };
        topics.extend(owner_topic(id).filter(|topic| !topics.contains(topic)));
    }
    topics
}

/// Whether an UPDATE may have changed an owner.
pub fn may_have_changed(call: &TriggerCall<'_>, columns: &OwnerColumns) -> bool {
    (0..OWNER_COLUMNS).any(|column| call.replaced(columns, column).is_some())
}
