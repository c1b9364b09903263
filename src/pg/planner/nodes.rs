//! Reading and making nodes of the planner, over texts in byte order.

use std::ffi::{CStr, c_void};

use pgrx::pg_sys::{self, BoolExprType, CoercionForm, NodeTag, ParamKind};
use pgrx::{PgList, is_a};

pub const LESS: u32 = pg_sys::TextLessOperator;
pub const GREATER_OR_EQUAL: u32 = pg_sys::TextGreaterEqualOperator;
/// `<`, `<=`, `>`, `>=` of text.
const COMPARISONS: [u32; 4] = [LESS, 665, 666, GREATER_OR_EQUAL];

/// The conditions that a clause is made of.
///
/// # Safety
///
/// Null, a list, or one expression.
pub unsafe fn conditions(clause: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
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
pub unsafe fn argument(arguments: *mut pg_sys::List, place: usize) -> Option<*mut pg_sys::Node> {
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

/// A text column of a table of this query.
///
/// # Safety
///
/// A node.
pub unsafe fn column(node: *mut pg_sys::Node) -> Option<*mut pg_sys::Var> {
    // SAFETY: the caller's promise; the cast follows a check of the tag.
    unsafe {
        let is_column = is_a(node, NodeTag::T_Var)
            && (*node.cast::<pg_sys::Var>()).varlevelsup == 0
            && (*node.cast::<pg_sys::Var>()).vartype == pg_sys::TEXTOID;
        is_column.then(|| node.cast())
    }
}

/// A call of a function.
///
/// # Safety
///
/// A node.
pub unsafe fn call_of(
    node: *mut pg_sys::Node,
    function: pg_sys::Oid,
) -> Option<*mut pg_sys::FuncExpr> {
    // SAFETY: the caller's promise; the cast follows a check of the tag.
    unsafe {
        let is_it = is_a(node, NodeTag::T_FuncExpr)
            && (*node.cast::<pg_sys::FuncExpr>()).funcid == function;
        is_it.then(|| node.cast())
    }
}

pub fn lower() -> pg_sys::Oid {
    pg_sys::F_LOWER_TEXT.into()
}

/// A comparison `lower(column) COLLATE "C" < bound`, by any of [`COMPARISONS`].
pub struct LowerComparison {
    pub operator: u32,
    pub lower: *mut pg_sys::FuncExpr,
    pub bound: *mut pg_sys::Node,
}

impl LowerComparison {
    /// # Safety
    ///
    /// Nodes of the planner.
    pub unsafe fn of(
        condition: *mut pg_sys::Node,
        compared: *mut pg_sys::Var,
    ) -> Option<LowerComparison> {
        // SAFETY: the caller's promise; each cast follows a check of the tag.
        unsafe {
            if !is_a(condition, NodeTag::T_OpExpr) {
                return None;
            }
            let condition = condition.cast::<pg_sys::OpExpr>();
            let operator = (*condition).opno.to_u32();
            let in_byte_order = (*condition).inputcollid == pg_sys::C_COLLATION_OID;
            if !COMPARISONS.contains(&operator) || !in_byte_order {
                return None;
            }
            let lower = call_of(argument((*condition).args, 0)?, lower())?;
            let column = column(argument((*lower).args, 0)?)?;
            let is_it =
                (*column).varno == (*compared).varno && (*column).varattno == (*compared).varattno;
            let bound = argument((*condition).args, 1)?;
            is_it.then_some(LowerComparison { operator, lower, bound })
        }
    }

    /// Whether the bound is a constant or a parameter of the query.
    ///
    /// # Safety
    ///
    /// The nodes still exist.
    pub unsafe fn is_fixed(&self) -> bool {
        // SAFETY: the caller's promise; the cast follows a check of the tag.
        unsafe {
            is_a(self.bound, NodeTag::T_Const)
                || is_a(self.bound, NodeTag::T_Param)
                    && (*self.bound.cast::<pg_sys::Param>()).paramkind == ParamKind::PARAM_EXTERN
        }
    }
}

/// The function of this name and these arguments in the schema of another function.
///
/// # Safety
///
/// The other function exists.
pub unsafe fn function_beside(
    other: pg_sys::Oid,
    name: &CStr,
    arguments: &[pg_sys::Oid],
) -> Option<pg_sys::Oid> {
    // SAFETY: a lookup in the catalog by a name that ends in NUL, and as many types as are counted.
    unsafe {
        let oid = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as i32)),
            pg_sys::Datum::from(pg_sys::get_func_namespace(other)),
            pg_sys::Datum::from(0_usize),
        );
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// A call of a function over bytes. The arguments are copied.
///
/// # Safety
///
/// The function exists, takes arguments of these types and returns this type.
pub unsafe fn call(
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
/// Nodes of the planner; the argument has the type of the call's.
pub unsafe fn with_argument(
    original: *mut pg_sys::FuncExpr,
    argument: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: the copy has the type of the original.
    unsafe {
        let call: *mut pg_sys::FuncExpr = copy(original);
        let mut arguments = PgList::<pg_sys::Node>::new();
        arguments.push(copy(argument));
        (*call).args = arguments.into_pg();
        call.cast()
    }
}

/// A text as `… COLLATE "C"`.
///
/// # Safety
///
/// A node of the planner, of type text.
pub unsafe fn collated(text: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe {
        let (collation, form) = (pg_sys::C_COLLATION_OID, CoercionForm::COERCE_EXPLICIT_CAST);
        pg_sys::makeRelabelType(text.cast(), pg_sys::TEXTOID, -1, collation, form).cast()
    }
}

/// `left operator right`, in byte order. The operands are copied.
///
/// # Safety
///
/// Nodes of the planner, of type text.
pub unsafe fn compare(
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

/// All of these conditions.
///
/// # Safety
///
/// New nodes.
pub unsafe fn all_of(conditions: PgList<pg_sys::Node>) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::makeBoolExpr(BoolExprType::AND_EXPR, conditions.into_pg(), -1).cast() }
}

/// # Safety
///
/// A node of the planner.
unsafe fn copy<T>(node: *mut T) -> *mut T {
    // SAFETY: the copy has the type of the original.
    unsafe { pg_sys::copyObjectImpl(node.cast::<c_void>()).cast() }
}
