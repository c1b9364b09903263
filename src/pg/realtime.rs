//! Supabase Realtime's door in the database: `realtime.send`, and as whom it is called.
//!
//! It is another's code, and what it inserts into is another's table, whose triggers and defaults
//! are others' code too. So nothing of it runs with the rights of a superuser, nor with those of
//! whoever changed a ticket: it runs as the table's owner, restricted as the server restricts
//! maintenance and logical replication, under a search_path that nobody else can put names into.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Oid};
use pgrx::{PgMemoryContexts, direct_function_call};

use super::guc::set_for_now as set;
use super::lock_budget::LockBudget;

/// The restrictive policy that guards our topics.
pub const GUARD: &CStr = c"civic channels";

/// Why no event can be handed to Realtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// There is no table `realtime.messages`.
    NoTable,
    /// There is no function `realtime.send(jsonb, text, text, boolean)`.
    NoFunction,
    /// The function belongs to a role that has not the rights of the table's owner, and would get
    /// them.
    ForeignFunction,
    /// The policies that guard our topics are not installed.
    Unguarded,
}

/// How an event gets to Realtime.
pub struct Sender {
    function: Oid,
    table: Oid,
    /// Who owns the table of messages: as whom the function runs.
    owner: Oid,
}

/// The table of messages, where there is one. Neither opened nor locked.
fn messages() -> Option<Oid> {
    // SAFETY: catalog look-ups by names that end in NUL; what is missing is InvalidOid.
    let table = unsafe {
        match pg_sys::get_namespace_oid(c"realtime".as_ptr(), true) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            schema => pg_sys::get_relname_relid(c"messages".as_ptr(), schema),
        }
    };
    (table != pg_sys::InvalidOid).then_some(table)
}

pub fn is_installed() -> bool {
    messages().is_some()
}

/// What is needed to send, as the catalog has it now.
pub fn sender() -> Result<Sender, SendError> {
    let table = messages().ok_or(SendError::NoTable)?;
    let function = send_function().ok_or(SendError::NoFunction)?;
    let owner = owner_of_table(table).ok_or(SendError::NoTable)?;
    let author = owner_of_function(function).ok_or(SendError::NoFunction)?;
    if !may_act_as(author, owner) {
        return Err(SendError::ForeignFunction);
    }
    Ok(Sender { function, table, owner })
}

fn send_function() -> Option<Oid> {
    let types = [pg_sys::JSONBOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::BOOLOID];
    // SAFETY: a look-up in the server's cache, with keys of the types that it has.
    let function = unsafe {
        let schema = pg_sys::get_namespace_oid(c"realtime".as_ptr(), true);
        let types = pg_sys::buildoidvector(types.as_ptr(), types.len() as i32);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            c"send".as_ptr().into(),
            types.into(),
            schema.into(),
            pg_sys::Datum::null(),
        )
    };
    // SAFETY: look-ups of a function, or of none.
    let is_plain = function != pg_sys::InvalidOid
        && unsafe {
            pg_sys::get_func_prokind(function) as u8 == b'f' && !pg_sys::get_func_retset(function)
        };
    is_plain.then_some(function)
}

/// A field of a catalog's row.
macro_rules! field {
    ($cache:ident, $oid:expr, $form:ident, $field:ident) => {{
        // SAFETY: the cache's rows have this form; the row is released and only the copy is used.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(
                pg_sys::SysCacheIdentifier::$cache as i32,
                pg_sys::Datum::from($oid),
            );
            (!tuple.is_null()).then(|| {
                let value = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::$form>()).$field;
                pg_sys::ReleaseSysCache(tuple);
                value
            })
        }
    }};
}

fn owner_of_table(table: Oid) -> Option<Oid> {
    field!(RELOID, table, FormData_pg_class, relowner)
}

fn owner_of_function(function: Oid) -> Option<Oid> {
    field!(PROCOID, function, FormData_pg_proc, proowner)
}

/// Whether a role has the other's rights, or can take them.
fn may_act_as(role: Oid, other: Oid) -> bool {
    // SAFETY: look-ups of memberships.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let can_become = pg_sys::is_member_of_role(role, other);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let can_become = pg_sys::member_can_set_role(role, other);
        can_become || pg_sys::has_privs_of_role(role, other)
    }
}

/// What the caller hears of Realtime's own warnings, of which there is one for each message that it
/// could not store. The server's log has them as log_min_messages says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Warnings {
    Shown,
    Silenced,
}

impl Sender {
    pub fn table(&self) -> Oid {
        self.table
    }

    pub fn owner(&self) -> Oid {
        self.owner
    }

    /// Whether the current role has the rights of the table's owner.
    pub fn is_callers(&self) -> bool {
        // SAFETY: reads this backend's current role.
        may_act_as(unsafe { pg_sys::GetUserId() }, self.owner)
    }

    /// Takes the lock on the table that each message needs, once for all of them. Call it within
    /// [`Sender::act`] and with the same budget.
    pub fn lock(&self, locks: &LockBudget) {
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: takes a lock that goes with the transaction, or raises an error.
        locks.spend(|| unsafe { pg_sys::LockRelationOid(self.table, lock) });
    }

    /// Whether the policy that guards our topics holds: row security is on, and the policy of this
    /// name is restrictive and for every command. It waits for the table's lock, where that is not held.
    pub fn is_guarded(&self) -> bool {
        // SAFETY: the table is open while its policies are read, as the server keeps them for it: a
        // list of policies, each with a name that ends in NUL.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let table = pg_sys::relation_open(self.table, lock);
            let mut is_guarded = false;
            if (*(*table).rd_rel).relrowsecurity && !(*table).rd_rsdesc.is_null() {
                let policies = (*(*table).rd_rsdesc).policies;
                let count = if policies.is_null() { 0 } else { (*policies).length as usize };
                for place in 0..count {
                    let element = (*(*policies).elements.add(place)).ptr_value;
                    let policy = &*element.cast::<pg_sys::RowSecurityPolicy>();
                    is_guarded |= CStr::from_ptr(policy.policy_name) == GUARD
                        && !policy.permissive
                        && policy.polcmd as u8 == b'*';
                }
            }
            pg_sys::relation_close(table, lock);
            is_guarded
        }
    }

    /// Runs an action as the owner of the table, which waits for locks as long as the budget lasts. Where
    /// it raises an error, the subtransaction around it puts everything back.
    pub fn act<R>(&self, warnings: Warnings, locks: &LockBudget, action: impl FnOnce() -> R) -> R {
        // SAFETY: the frame that the server itself puts around a function with SET clauses and
        // another's rights (fmgr_security_definer): an error unwinds to a subtransaction, whose end
        // puts back user and settings.
        unsafe {
            let (mut user, mut context) = (pg_sys::InvalidOid, 0);
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let restricted =
                pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(self.owner, context | restricted as i32);
            let level = pg_sys::NewGUCNestLevel();
            set(c"search_path", c"pg_catalog, pg_temp");
            // The day of a message is that of UTC, as the partitions are.
            set(c"timezone", c"UTC");
            if warnings == Warnings::Silenced {
                set(c"client_min_messages", c"error");
            }
            locks.begin();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = action();
            pg_sys::PopActiveSnapshot();
            // With what that code has set: else its search_path would be the caller's from now on.
            pg_sys::AtEOXact_GUC(false, level);
            pg_sys::SetUserIdAndSecContext(user, context);
            result
        }
    }

    /// Calls `realtime.send(payload, type of the event, topic, true)`. Call it within [`Sender::act`] and
    /// with the same budget.
    pub fn send(&self, locks: &LockBudget, topic: &CStr, payload: &CStr) {
        // SAFETY: functions of the catalog and the one that was looked up, each with arguments of
        // its types; what they allocate goes with the context, of which nothing is handed on.
        unsafe {
            PgMemoryContexts::new("pg_civic event").switch_to(|_| {
                let payload: pg_sys::Datum =
                    direct_function_call(pg_sys::jsonb_in, &[Some(payload.as_ptr().into())])
                        .expect("a JSON text gives a jsonb");
                let key = Some(pg_sys::cstring_to_text(c"type".as_ptr()).into());
                let event: pg_sys::Datum =
                    direct_function_call(pg_sys::jsonb_object_field_text, &[Some(payload), key])
                        .expect("an event has a type");
                let topic = pg_sys::cstring_to_text(topic.as_ptr()).into();
                let private = true.into();
                let function = self.function;
                locks.spend(|| {
                    pg_sys::OidFunctionCall4Coll(
                        function,
                        pg_sys::InvalidOid,
                        payload,
                        event,
                        topic,
                        private,
                    )
                });
            });
        }
    }
}
