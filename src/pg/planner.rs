//! What the planner asks of a function (`SupportRequestSimplify`, nodes/supportnodes.h): a call that tests
//! whether a text is in a folder becomes the range of the folder, which an index can serve.
//!
//! Row security lets an index serve only conditions of a policy, and conditions of the query that cannot
//! reveal a row that a policy hides. `lower()` counts as one that can. The Storage API's list asks for
//! `lower(name) COLLATE "C"` between two texts, a hundred times per call, and each time every object of
//! the folder would be read and sorted. So where a query asks for that, and an index has it, the policy's
//! range is that of the folder in lower case, with the query's own bounds. Each row has to be within these
//! anyway. They are constants and parameters only, so that nothing runs that the user wrote.

use std::ffi::{CStr, c_void};
use std::ptr::null;

use pgrx::pg_sys::{self, BoolExprType, CmdType, CoercionForm, NodeTag, ParamKind};
use pgrx::{PgList, is_a};

/// The functions that give a folder's bounds, in the schema of the function that is simplified. They take
/// nothing, and give NULL where there is no folder.
pub struct Folder {
    pub start: &'static CStr,
    pub end: &'static CStr,
}

/// The expression of a call `in_folder(name)` as a range, `None` if it must be called. To be returned by a
/// planner support function.
///
/// # Safety
///
/// The server has called the support function with this argument.
pub unsafe fn as_range(request: pg_sys::Datum, folder: &Folder) -> Option<pg_sys::Datum> {
    let request = request.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the server passes a node; its tag says of which type it is. A call has its arguments.
    unsafe {
        if !is_a(request, NodeTag::T_SupportRequestSimplify) {
            return None;
        }
        let request = request.cast::<pg_sys::SupportRequestSimplify>();
        let call = (*request).fcall;
        // Another expression could be volatile, and would be evaluated twice.
        let name = column(argument((*call).args, 0)?)?;
        let start = bound((*call).funcid, folder.start)?;
        let end = bound((*call).funcid, folder.end)?;
        let range = match lower_range((*request).root, name, start, end) {
            Some(range) => range,
            None => {
                let mut range = PgList::<pg_sys::Node>::new();
                range.push(compare(GREATER_OR_EQUAL, name.cast(), start));
                range.push(compare(LESS, name.cast(), end));
                range
            }
        };
        let range = pg_sys::makeBoolExpr(BoolExprType::AND_EXPR, range.into_pg(), -1);
        Some(pg_sys::Datum::from(range))
    }
}

const LESS: u32 = pg_sys::TextLessOperator;
const GREATER_OR_EQUAL: u32 = pg_sys::TextGreaterEqualOperator;
/// `<`, `<=`, `>`, `>=` of text.
const COMPARISONS: [u32; 4] = [LESS, 665, 666, GREATER_OR_EQUAL];

/// The folder in lower case, and the query's bounds in lower case, with the test of the name itself. `None`
/// if the query does not ask for that, or no index has it: then the name's own range is better.
///
/// # Safety
///
/// The planner's own nodes; `root` may be null.
unsafe fn lower_range(
    root: *mut pg_sys::PlannerInfo,
    name: *mut pg_sys::Var,
    start: *mut pg_sys::Node,
    end: *mut pg_sys::Node,
) -> Option<PgList<pg_sys::Node>> {
    // SAFETY: the caller's promise; each cast follows a check of the tag.
    unsafe {
        // Other commands check new rows with the same policy, and those need not be what WHERE says.
        let query = root.as_ref()?.parse.as_ref()?;
        if query.commandType != CmdType::CMD_SELECT || query.jointree.is_null() {
            return None;
        }
        let mut range = PgList::<pg_sys::Node>::new();
        let mut lower = None;
        for condition in conditions((*query.jointree).quals) {
            let Some((operator, call, bound)) = lower_comparison(condition, name) else { continue };
            range.push(compare(operator, with_argument(call, name.cast()), bound));
            lower = Some(call);
        }
        let lower = |argument| lower.map(|call| with_argument(call, argument));
        range.push(compare(GREATER_OR_EQUAL, lower(name.cast())?, lower(start)?));
        range.push(compare(LESS, lower(name.cast())?, lower(end)?));
        if !has_index(query, name) {
            return None;
        }
        // As a function, so that the planner does not choose the index of the names for their range: it
        // overrates that one, as it knows nothing of the query's parameters.
        range.push(call(pg_sys::F_STARTS_WITH.into(), pg_sys::BOOLOID, &[name.cast(), start]));
        Some(range)
    }
}

/// Whether a valid index of the column's table is on another column and `lower(name) COLLATE "C"`.
///
/// # Safety
///
/// A query in planning, whose tables are locked.
unsafe fn has_index(query: &pg_sys::Query, name: *mut pg_sys::Var) -> bool {
    // SAFETY: the caller's promise. What an error leaves open, the server closes.
    unsafe {
        let tables = PgList::<pg_sys::RangeTblEntry>::from_pg(query.rtable);
        let entry = usize::try_from((*name).varno - 1).ok().and_then(|place| tables.get_ptr(place));
        let Some(entry) = entry.filter(|it| (**it).rtekind == pg_sys::RTEKind::RTE_RELATION) else {
            return false;
        };
        let table = pg_sys::RelationIdGetRelation((*entry).relid);
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
unsafe fn is_on_lower(index: pg_sys::Relation, column_number: pg_sys::AttrNumber) -> bool {
    // SAFETY: the caller's promise; an index has as many keys and collations as it counts.
    unsafe {
        let form = &*(*index).rd_index;
        if !form.indisvalid || form.indnkeyatts != 2 || form.indkey.values.as_slice(2)[1] != 0 {
            return false;
        }
        let expressions =
            PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexExpressions(index));
        let lower = expressions.get_ptr(0).and_then(|expression| lower_call(expression));
        expressions.len() == 1
            && lower.is_some_and(|(_, compared)| (*compared).varattno == column_number)
            && *(*index).rd_indcollation.add(1) == pg_sys::C_COLLATION_OID
            && pg_sys::RelationGetIndexPredicate(index).is_null()
    }
}

/// A condition `lower(name) COLLATE "C" < bound`, by any of [`COMPARISONS`]: the operator, the call of
/// `lower` and the bound, which is a constant or a parameter of the query.
///
/// # Safety
///
/// Nodes of the planner.
unsafe fn lower_comparison(
    condition: *mut pg_sys::Node,
    name: *mut pg_sys::Var,
) -> Option<(u32, *mut pg_sys::FuncExpr, *mut pg_sys::Node)> {
    // SAFETY: the caller's promise; each cast follows a check of the tag.
    unsafe {
        if !is_a(condition, NodeTag::T_OpExpr) {
            return None;
        }
        let condition = condition.cast::<pg_sys::OpExpr>();
        let operator = (*condition).opno.to_u32();
        if !COMPARISONS.contains(&operator) || (*condition).inputcollid != pg_sys::C_COLLATION_OID {
            return None;
        }
        let (call, compared) = lower_call(argument((*condition).args, 0)?)?;
        if (*compared).varno != (*name).varno || (*compared).varattno != (*name).varattno {
            return None;
        }
        let bound = argument((*condition).args, 1)?;
        let is_fixed = is_a(bound, NodeTag::T_Const)
            || is_a(bound, NodeTag::T_Param)
                && (*bound.cast::<pg_sys::Param>()).paramkind == ParamKind::PARAM_EXTERN;
        is_fixed.then_some((operator, call, bound))
    }
}

/// A call of `lower` for a column, and the column.
///
/// # Safety
///
/// A node.
unsafe fn lower_call(node: *mut pg_sys::Node) -> Option<(*mut pg_sys::FuncExpr, *mut pg_sys::Var)> {
    // SAFETY: the caller's promise; the cast follows a check of the tag.
    unsafe {
        if !is_a(node, NodeTag::T_FuncExpr) {
            return None;
        }
        let call = node.cast::<pg_sys::FuncExpr>();
        let is_lower = (*call).funcid.to_u32() == pg_sys::F_LOWER_TEXT;
        is_lower.then_some((call, column(argument((*call).args, 0)?)?))
    }
}

/// The conditions that every row of a query must meet.
///
/// # Safety
///
/// The WHERE clause of a query: null, a list, or one expression.
unsafe fn conditions(clause: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; each cast follows a check of the tag.
    unsafe {
        if clause.is_null() {
            return vec![];
        }
        let parts = if is_a(clause, NodeTag::T_List) {
            clause.cast::<pg_sys::List>()
        } else if is_a(clause, NodeTag::T_BoolExpr)
            && (*clause.cast::<pg_sys::BoolExpr>()).boolop == BoolExprType::AND_EXPR
        {
            (*clause.cast::<pg_sys::BoolExpr>()).args
        } else {
            return vec![clause];
        };
        PgList::<pg_sys::Node>::from_pg(parts).iter_ptr().collect()
    }
}

/// An argument, without what only gives it another collation or a binary-compatible type.
///
/// # Safety
///
/// A list of nodes.
unsafe fn argument(arguments: *mut pg_sys::List, place: usize) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; each cast follows a check of the tag.
    unsafe {
        let mut node = PgList::<pg_sys::Node>::from_pg(arguments).get_ptr(place)?;
        loop {
            node = if is_a(node, NodeTag::T_RelabelType) {
                (*node.cast::<pg_sys::RelabelType>()).arg.cast()
            } else if is_a(node, NodeTag::T_CollateExpr) {
                (*node.cast::<pg_sys::CollateExpr>()).arg.cast()
            } else {
                return Some(node);
            };
        }
    }
}

/// A column of a table of this query.
///
/// # Safety
///
/// A node.
unsafe fn column(node: *mut pg_sys::Node) -> Option<*mut pg_sys::Var> {
    // SAFETY: the caller's promise; the cast follows a check of the tag.
    unsafe {
        let is_column = is_a(node, NodeTag::T_Var)
            && (*node.cast::<pg_sys::Var>()).varlevelsup == 0
            && (*node.cast::<pg_sys::Var>()).vartype == pg_sys::TEXTOID;
        is_column.then(|| node.cast())
    }
}

/// A call of the function of this name, without arguments, in the schema of another function.
///
/// # Safety
///
/// The other function exists.
unsafe fn bound(beside: pg_sys::Oid, name: &CStr) -> Option<*mut pg_sys::Node> {
    // SAFETY: lookups in the catalog by a name that ends in NUL; the call is a new node.
    unsafe {
        let oid = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(pg_sys::buildoidvector(null(), 0)),
            pg_sys::Datum::from(pg_sys::get_func_namespace(beside)),
            pg_sys::Datum::from(0_usize),
        );
        (oid != pg_sys::InvalidOid).then(|| call(oid, pg_sys::TEXTOID, &[]))
    }
}

/// A call of a function over bytes. The arguments are copied.
///
/// # Safety
///
/// The function exists and takes arguments of these types.
unsafe fn call(
    function: pg_sys::Oid,
    result: pg_sys::Oid,
    arguments: &[*mut pg_sys::Node],
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe {
        let mut list = PgList::<pg_sys::Node>::new();
        arguments.iter().for_each(|argument| list.push(copy(*argument)));
        let is_text = result == pg_sys::TEXTOID;
        let collation = if is_text { pg_sys::DEFAULT_COLLATION_OID } else { pg_sys::InvalidOid };
        let (list, form) = (list.into_pg(), CoercionForm::COERCE_EXPLICIT_CALL);
        pg_sys::makeFuncExpr(function, result, list, collation, pg_sys::C_COLLATION_OID, form)
            .cast()
    }
}

/// The same call with another argument.
///
/// # Safety
///
/// Nodes of the planner.
unsafe fn with_argument(
    function: *mut pg_sys::FuncExpr,
    argument: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: the copy has the type of the original.
    unsafe {
        let call: *mut pg_sys::FuncExpr = copy(function);
        let mut arguments = PgList::<pg_sys::Node>::new();
        arguments.push(copy(argument));
        (*call).args = arguments.into_pg();
        call.cast()
    }
}

/// `left operator right`, in byte order. The operands are copied.
///
/// # Safety
///
/// Nodes of the planner, of type text.
unsafe fn compare(
    operator: u32,
    left: *mut pg_sys::Node,
    right: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: make_opclause makes an OpExpr.
    unsafe {
        let comparison = pg_sys::make_opclause(
            pg_sys::Oid::from(operator),
            pg_sys::BOOLOID,
            false,
            copy(left).cast(),
            copy(right).cast(),
            pg_sys::InvalidOid,
            pg_sys::C_COLLATION_OID,
        );
        pg_sys::set_opfuncid(comparison.cast());
        comparison.cast()
    }
}

/// # Safety
///
/// A node of the planner.
unsafe fn copy<T>(node: *mut T) -> *mut T {
    // SAFETY: the copy has the type of the original.
    unsafe { pg_sys::copyObjectImpl(node.cast::<c_void>()).cast() }
}

/// Defines a planner support function that gives [`as_range`].
macro_rules! support_function {
    ($(#[$doc:meta])* $symbol:ident, $info:ident, $folder:expr) => {
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
                $crate::pg::planner::as_range(request, &$folder)
                    .unwrap_or(::pgrx::pg_sys::Datum::from(0_usize))
            }
        }
    };
}

pub(crate) use support_function;
