//! What the planner asks of two functions (`SupportRequestSimplify`, nodes/supportnodes.h), so that a policy
//! over the folder of a name becomes a range of an index.
//!
//! `in_folder(name)` becomes the range of the folder, which the index of the names serves.
//!
//! That is not enough for the list of the Storage API. It asks for `lower(name) COLLATE "C"` between two texts,
//! a hundred times per call. Row security lets an index serve conditions of the first policies, and others that
//! cannot reveal a hidden row; `lower()` counts as a function that can. So every object of the folder would be
//! read and sorted each time. `bounds(name)`, which is always true, stands in a policy of its own, the first.
//! Where a query compares names in lower case, and the policies show nothing outside of the folder, it becomes
//! the folder's range in lower case and the query's own bounds: an index serves both, and each row of the result
//! is within both anyway. The bounds are constants and parameters only, so nothing runs that the user wrote.

mod nodes;

use std::ffi::{CStr, c_void};

use pgrx::pg_sys::{self, CmdType, NodeTag};
use pgrx::{PgList, is_a};

use self::nodes::{GREATER_OR_EQUAL, LESS, LowerComparison};
use self::nodes::{
    all_of, argument, call, call_of, collated, column, compare, conditions, function_beside, lower,
    with_argument,
};

/// The functions over a folder, by their names in one schema.
pub struct Folder {
    /// `in_folder(text)`: whether a name is in it.
    pub contains: &'static CStr,
    /// `start()` and `end()`: its range in byte order; NULL where there is no folder.
    pub start: &'static CStr,
    pub end: &'static CStr,
}

/// A call that the planner asks about, over a column.
struct Call {
    root: *mut pg_sys::PlannerInfo,
    function: pg_sys::Oid,
    name: *mut pg_sys::Var,
}

impl Call {
    /// `None` for another request, and for a call over anything else: that could be volatile, and would be
    /// evaluated more than once.
    ///
    /// # Safety
    ///
    /// The server has called the support function with this argument.
    unsafe fn of(request: pg_sys::Datum) -> Option<Call> {
        let request = request.cast_mut_ptr::<pg_sys::Node>();
        // SAFETY: the server passes a node; its tag says of which type it is.
        unsafe {
            if !is_a(request, NodeTag::T_SupportRequestSimplify) {
                return None;
            }
            let request = request.cast::<pg_sys::SupportRequestSimplify>();
            let call = (*request).fcall;
            let name = column(argument((*call).args, 0)?)?;
            Some(Call { root: (*request).root, function: (*call).funcid, name })
        }
    }

    /// The query in planning, and the conditions of the policies on the column's table.
    ///
    /// # Safety
    ///
    /// As [`Call::of`].
    unsafe fn policies(
        &self,
    ) -> Option<(&pg_sys::Query, *mut pg_sys::RangeTblEntry, Vec<*mut pg_sys::Node>)> {
        // SAFETY: the caller's promise: the planner's own nodes. An entry of a query's tables is one.
        unsafe {
            let query = self.root.as_ref()?.parse.as_ref()?;
            let tables = PgList::<pg_sys::RangeTblEntry>::from_pg(query.rtable);
            let table = tables.get_ptr(usize::try_from((*self.name).varno - 1).ok()?)?;
            let policies = PgList::<pg_sys::Node>::from_pg((*table).securityQuals);
            let policies = policies.iter_ptr().flat_map(|policy| conditions(policy));
            Some((query, table, policies.collect()))
        }
    }
}

/// `in_folder(name)` as a range; `None` if it stays a call.
///
/// # Safety
///
/// The server has called the support function with this argument.
pub unsafe fn as_range(request: pg_sys::Datum, folder: &Folder) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise, and the planner's own nodes.
    unsafe {
        let asked = Call::of(request)?;
        let start = function_beside(asked.function, folder.start, &[])?;
        let end = function_beside(asked.function, folder.end, &[])?;
        let text = pg_sys::TEXTOID;
        let name = asked.name.cast();
        let is_bounded = asked.policies().is_some_and(|(_, _, policies)| {
            policies.into_iter().any(|policy| is_bound_of(policy, asked.name, start))
        });
        if is_bounded {
            // A test that no index serves: the planner overrates the index of the names, as it does not know
            // the query's parameters.
            let function = pg_sys::F_STARTS_WITH.into();
            return Some(call(function, pg_sys::BOOLOID, &[name, call(start, text, &[])]));
        }
        let mut range = PgList::<pg_sys::Node>::new();
        range.push(compare(GREATER_OR_EQUAL, name, call(start, text, &[])));
        range.push(compare(LESS, name, call(end, text, &[])));
        Some(all_of(range))
    }
}

/// Whether a condition is `lower(name) COLLATE "C" >= lower(start())`, as [`as_bounds`] makes it.
///
/// # Safety
///
/// Nodes of the planner.
unsafe fn is_bound_of(
    condition: *mut pg_sys::Node,
    name: *mut pg_sys::Var,
    start: pg_sys::Oid,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let is_start = |bound| {
            let lower = call_of(bound, lower())?;
            call_of(argument((*lower).args, 0)?, start)
        };
        LowerComparison::of(condition, name).is_some_and(|it| is_start(it.bound).is_some())
    }
}

/// `bounds(name)` as the bounds that the query gives it, and as true if there are none; `None` if it stays a
/// call.
///
/// # Safety
///
/// The server has called the support function with this argument.
pub unsafe fn as_bounds(request: pg_sys::Datum, folder: &Folder) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        let asked = Call::of(request)?;
        Some(bounds(&asked, folder).unwrap_or_else(|| pg_sys::makeBoolConst(true, false)))
    }
}

/// # Safety
///
/// As [`as_bounds`].
unsafe fn bounds(asked: &Call, folder: &Folder) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise, and the planner's own nodes.
    unsafe {
        let (query, table, policies) = asked.policies()?;
        // Other commands check new rows with the same policy, and those need not be what WHERE says.
        if query.commandType != CmdType::CMD_SELECT || query.jointree.is_null() {
            return None;
        }
        // Without this condition, as with a second policy that opens more, there are rows outside of the folder.
        let contains = function_beside(asked.function, folder.contains, &[pg_sys::TEXTOID])?;
        let is_ours = |policy: &*mut pg_sys::Node| {
            let name = call_of(*policy, contains).and_then(|it| column(argument((*it).args, 0)?));
            name.is_some_and(|name| (*name).varattno == (*asked.name).varattno)
        };
        if !policies.iter().any(is_ours) {
            return None;
        }
        let mut bounds = PgList::<pg_sys::Node>::new();
        let mut lower = None;
        for condition in conditions((*query.jointree).quals) {
            let Some(compared) = LowerComparison::of(condition, asked.name) else { continue };
            if compared.is_fixed() {
                // In this form the planner does not take it for a bound of the folder's range, of which it
                // knows how many rows are within.
                let name = collated(with_argument(compared.lower, asked.name.cast()));
                bounds.push(compare(compared.operator, name, compared.bound));
                lower = Some(compared.lower);
            }
        }
        let lower = lower?;
        if !has_index(table, asked.name) {
            return None;
        }
        for (operator, bound) in [(GREATER_OR_EQUAL, folder.start), (LESS, folder.end)] {
            let bound = call(function_beside(asked.function, bound, &[])?, pg_sys::TEXTOID, &[]);
            let name = with_argument(lower, asked.name.cast());
            bounds.push(compare(operator, name, with_argument(lower, bound)));
        }
        Some(all_of(bounds))
    }
}

/// Whether a valid index of a table is on another column and `lower(name) COLLATE "C"`.
///
/// # Safety
///
/// A table of a query in planning, which is locked.
unsafe fn has_index(table: *mut pg_sys::RangeTblEntry, name: *mut pg_sys::Var) -> bool {
    // SAFETY: the caller's promise. What an error leaves open, the server closes.
    unsafe {
        if (*table).rtekind != pg_sys::RTEKind::RTE_RELATION {
            return false;
        }
        let table = pg_sys::RelationIdGetRelation((*table).relid);
        if table.is_null() {
            return false;
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let indexes = PgList::<c_void>::from_pg(pg_sys::RelationGetIndexList(table));
        let found = indexes.iter_oid().any(|oid| {
            let index = pg_sys::index_open(oid, lock);
            let is_it = is_on_lower(index, (*name).varattno);
            pg_sys::index_close(index, lock);
            is_it
        });
        pg_sys::RelationClose(table);
        found
    }
}

/// # Safety
///
/// An open index.
unsafe fn is_on_lower(index: pg_sys::Relation, number: pg_sys::AttrNumber) -> bool {
    // SAFETY: the caller's promise; an index has as many keys and collations as it counts.
    unsafe {
        let form = &*(*index).rd_index;
        if !form.indisvalid || form.indnkeyatts != 2 || form.indkey.values.as_slice(2)[1] != 0 {
            return false;
        }
        let expressions =
            PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexExpressions(index));
        let compared = expressions
            .get_ptr(0)
            .and_then(|expression| column(argument((*call_of(expression, lower())?).args, 0)?));
        expressions.len() == 1
            && compared.is_some_and(|compared| (*compared).varattno == number)
            && *(*index).rd_indcollation.add(1) == pg_sys::C_COLLATION_OID
            && pg_sys::RelationGetIndexPredicate(index).is_null()
    }
}

/// Defines a planner support function that gives [`as_range`] or [`as_bounds`].
macro_rules! support_function {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $simplify:ident, $folder:expr) => {
        $crate::pg::c_function::declare!($info);

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The server calls it, as the function that SQL declares.
        #[allow(unsafe_code)]
        #[::pgrx::pg_guard]
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise: one argument, of type internal. A null pointer means that the
            // call stays as it is.
            unsafe {
                let request = (*fcinfo).args.as_slice(1)[0].value;
                let simplified = $crate::pg::planner::$simplify(request, &$folder);
                ::pgrx::pg_sys::Datum::from(simplified.unwrap_or(::std::ptr::null_mut()))
            }
        }
    };
}

pub(crate) use support_function;
