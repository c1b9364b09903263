//! Supabase Realtime's function `realtime.send`, and the role that calls it.
//!
//! The function, the table it inserts into, and that table's triggers and defaults are code of
//! other roles. None of it runs with the rights of a superuser or of the user who changed a ticket.
//! It runs as the table's owner, restricted as the server restricts maintenance and logical
//! replication, with a search_path that other roles cannot add names to.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Oid};
use pgrx::{PgMemoryContexts, direct_function_call};

use super::guc::set_for_now as set;
use super::lock_budget::LockBudget;

/// The restrictive policy that guards our topics.
pub const GUARD: &CStr = c"civic channels";

/// Why events cannot be sent to Realtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// There is no table `realtime.messages`.
    NoTable,
    /// There is no function `realtime.send(jsonb, text, text, boolean)`.
    NoFunction,
    /// The function's owner lacks the rights of the table's owner and would gain them.
    ForeignFunction,
    /// The policies that guard our topics are not installed.
    Unguarded,
}

/// How an event is sent to Realtime.
pub struct Sender {
    function: Oid,
    table: Oid,
    /// The owner of the table of messages. The function runs as this role.
    owner: Oid,
}

/// The table of messages, if it exists. It is neither opened nor locked.
fn messages() -> Option<Oid> {
    // SAFETY: catalog lookups by names that end in NUL; a missing object is InvalidOid.
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

/// Looks up in the catalog what sending needs.
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
    // SAFETY: a lookup in the server's cache, with keys of the right types.
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
    // SAFETY: lookups of a function, which may not exist.
    let is_plain = function != pg_sys::InvalidOid
        && unsafe {
            pg_sys::get_func_prokind(function) as u8 == b'f' && !pg_sys::get_func_retset(function)
        };
    is_plain.then_some(function)
}

/// Reads a field of a catalog row.
macro_rules! field {
    ($cache:ident, $oid:expr, $form:ident, $field:ident) => {{
        // SAFETY: rows of this cache have this form; the row is released and only the copy is used.
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

/// Whether a role has the other's rights or can acquire them.
fn may_act_as(role: Oid, other: Oid) -> bool {
    // SAFETY: lookups of memberships.
    unsafe {
        #[cfg(feature = "pg15")]
        let can_become = pg_sys::is_member_of_role(role, other);
        #[cfg(not(feature = "pg15"))]
        let can_become = pg_sys::member_can_set_role(role, other);
        can_become || pg_sys::has_privs_of_role(role, other)
    }
}

/// Whether the caller sees Realtime's own warnings. Realtime raises one for each message that it
/// could not store. The server's log gets them as log_min_messages says.
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

    /// Takes the table lock that each message needs, once for all of them. Call it within
    /// [`Sender::act`] and with the same budget.
    pub fn lock(&self, locks: &LockBudget) {
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: takes a lock that the end of the transaction releases, or raises an error.
        locks.spend(|| unsafe { pg_sys::LockRelationOid(self.table, lock) });
    }

    /// Whether the policy that guards our topics is active: row security is on, and the policy of
    /// this name is restrictive and for every command. Waits for the table's lock if it is not
    /// held.
    pub fn is_guarded(&self) -> bool {
        // SAFETY: the table is open while its policies are read. The server keeps them as a list of
        // policies, each with a name that ends in NUL.
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

    /// Runs an action as the owner of the table. It waits for locks until the budget is spent. If
    /// the action raises an error, the surrounding subtransaction restores everything.
    pub fn act<R>(&self, warnings: Warnings, locks: &LockBudget, action: impl FnOnce() -> R) -> R {
        // SAFETY: the same frame that the server puts around a SECURITY DEFINER function with SET
        // clauses (fmgr_security_definer). An error unwinds to a subtransaction, whose end restores
        // user and settings.
        unsafe {
            let (mut user, mut context) = (pg_sys::InvalidOid, 0);
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let restricted =
                pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(self.owner, context | restricted as i32);
            let level = pg_sys::NewGUCNestLevel();
            set(c"search_path", c"pg_catalog, pg_temp");
            // The day of a message is in UTC, as the partitions are.
            set(c"timezone", c"UTC");
            if warnings == Warnings::Silenced {
                set(c"client_min_messages", c"error");
            }
            locks.begin();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = action();
            pg_sys::PopActiveSnapshot();
            // Reverts settings of the called code too; otherwise its search_path would stay in
            // effect for the caller.
            pg_sys::AtEOXact_GUC(false, level);
            pg_sys::SetUserIdAndSecContext(user, context);
            result
        }
    }

    /// Calls `realtime.send(payload, type of the event, topic, true)`. Call it within [`Sender::act`] and
    /// with the same budget.
    pub fn send(&self, locks: &LockBudget, topic: &CStr, payload: &CStr) {
        // SAFETY: catalog functions and the function looked up above, each with arguments of its
        // types. Their allocations are freed with the context; nothing is passed on.
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
