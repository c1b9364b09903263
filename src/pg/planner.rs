//! What the planner asks of a function (`SupportRequestSimplify`, nodes/supportnodes.h): a call that tests
//! whether a text is in a folder becomes the range of the folder, which an index can serve.
//!
//! Row security lets an index serve only conditions of a policy, and conditions of the query that cannot
//! reveal a row that a policy hides. `lower()` counts as one that can. The Storage API's list asks for
//! `lower(name) COLLATE "C"` between two texts, a hundred times per call, and each time every object of
//! the folder would be read and sorted. So where a query asks for that, the policy's own range gets it too:
//! the bounds of the folder in lower case, and the query's bounds. Each row has to be within both anyway.
//! The query's bounds are constants and parameters only, so that nothing runs that the user wrote.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

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
        let mut range = PgList::<pg_sys::Node>::new();
        range.push(compare(GREATER_OR_EQUAL, name.cast(), start));
        range.push(compare(LESS, name.cast(), end));
        in_lower_case((*request).root, name, start, end, &mut range);
        let range = pg_sys::makeBoolExpr(BoolExprType::AND_EXPR, range.into_pg(), -1);
        Some(pg_sys::Datum::from(range))
    }
}

const LESS: u32 = pg_sys::TextLessOperator;
const GREATER_OR_EQUAL: u32 = pg_sys::TextGreaterEqualOperator;
/// `<`, `<=`, `>`, `>=` of text.
const COMPARISONS: [u32; 4] = [LESS, 665, 666, GREATER_OR_EQUAL];

/// Adds the bounds in lower case, if the query compares the column in lower case.
///
/// # Safety
///
/// The planner's own nodes; `root` may be null.
unsafe fn in_lower_case(
    root: *mut pg_sys::PlannerInfo,
    name: *mut pg_sys::Var,
    start: *mut pg_sys::Node,
    end: *mut pg_sys::Node,
    range: &mut PgList<pg_sys::Node>,
) {
    // SAFETY: the caller's promise; each cast follows a check of the tag.
    unsafe {
        // Other commands check new rows with the same policy, and those need not be what WHERE says.
        let Some(query) = root.as_ref().and_then(|root| root.parse.as_ref()) else { return };
        if query.commandType != CmdType::CMD_SELECT || query.jointree.is_null() {
            return;
        }
        let mut lower = None;
        for condition in conditions((*query.jointree).quals) {
            let Some((operator, function, bound)) = lower_comparison(condition, name) else {
                continue;
            };
            range.push(compare(operator, with_argument(function, name.cast()), bound));
            lower = Some(function);
        }
        if let Some(function) = lower {
            range.push(compare(
                GREATER_OR_EQUAL,
                with_argument(function, name.cast()),
                with_argument(function, start),
            ));
            range.push(compare(
                LESS,
                with_argument(function, name.cast()),
                with_argument(function, end),
            ));
        }
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
        let function = argument((*condition).args, 0)?;
        if !is_a(function, NodeTag::T_FuncExpr) {
            return None;
        }
        let function = function.cast::<pg_sys::FuncExpr>();
        if (*function).funcid.to_u32() != pg_sys::F_LOWER_TEXT {
            return None;
        }
        let compared = column(argument((*function).args, 0)?)?;
        if (*compared).varno != (*name).varno || (*compared).varattno != (*name).varattno {
            return None;
        }
        let bound = argument((*condition).args, 1)?;
        let is_fixed = is_a(bound, NodeTag::T_Const)
            || is_a(bound, NodeTag::T_Param)
                && (*bound.cast::<pg_sys::Param>()).paramkind == ParamKind::PARAM_EXTERN;
        is_fixed.then_some((operator, function, bound))
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
        (oid != pg_sys::InvalidOid).then(|| {
            pg_sys::makeFuncExpr(
                oid,
                pg_sys::TEXTOID,
                null_mut(),
                pg_sys::DEFAULT_COLLATION_OID,
                pg_sys::InvalidOid,
                CoercionForm::COERCE_EXPLICIT_CALL,
            )
            .cast()
        })
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
