//! Which columns of a table the rules are about, without PostgreSQL.

use crate::setup::SetupError;

/// What a column's values are, whatever the type is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Uuid,
    Text,
    Boolean,
    /// The OID of another built-in type, or of one of a user.
    Other(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As SQL writes it.
    pub quoted: String,
    pub kind: Kind,
    /// Whether it is of the type `uuid`, `text` or `boolean` itself, not `varchar` or a domain.
    pub is_exact: bool,
    /// Whether equal means the same bytes.
    pub is_deterministic: bool,
    pub type_name: String,
}

/// A table of the application, as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Qualified and quoted.
    pub name: String,
    /// Quoted.
    pub short_name: String,
    pub columns: Vec<Column>,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Who reads the rows that do not name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// The roles in `civic.staff_readers`.
    Staff,
    /// Every user of the municipality.
    Tenant,
}

impl Readable {
    /// Errors: 22023.
    pub fn parse(value: &str) -> Result<Readable, SetupError> {
        match value {
            "staff" => Ok(Readable::Staff),
            "tenant" => Ok(Readable::Tenant),
            _ => Err(SetupError::InvalidReadable { value: value.to_owned() }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Readable::Staff => "staff",
            Readable::Tenant => "tenant",
        }
    }
}

/// The arguments of `civic.protect()`. `None`: to be detected. An empty name or list: none.
#[derive(Debug, Clone)]
pub struct Request {
    pub tenant: String,
    pub owners: Option<Vec<String>>,
    pub assigned: Option<String>,
    pub sensitive: Option<String>,
    pub ticket: Option<String>,
    pub guarded: Option<Vec<String>>,
    pub readable: Readable,
}

/// The columns that the rules are about. `civic.protected_tables` keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub tenant: String,
    pub owners: Vec<String>,
    pub assigned: Option<String>,
    pub sensitive: Option<String>,
    pub ticket: Option<String>,
    pub guarded: Vec<String>,
    pub readable: Readable,
}

/// The column that says who may do what in the application. A table that has it is one of users.
const ROLE_COLUMN: &str = "role";
const OWNER_COLUMNS: [&str; 2] = ["user_id", "created_by"];
const ASSIGNED_COLUMN: &str = "assigned_to";
const SENSITIVE_COLUMN: &str = "is_sensitive";
const TICKET_COLUMN: &str = "ticket_id";
const ID_COLUMN: &str = "id";

impl Rules {
    /// What the arguments mean for a table. A column that is detected counts only if its type fits; a
    /// column that is named must exist and fit.
    ///
    /// Errors: 42703 for a column that does not exist, 42804 for one whose type does not fit.
    pub fn resolve(request: Request, table: &Table) -> Result<Rules, SetupError> {
        let fits = |name: &&str, kinds: &[Kind]| {
            table.column(name).is_some_and(|column| kinds.contains(&column.kind))
        };
        let one = |given: Option<String>, detected: &'static str, kinds: &[Kind]| match given {
            Some(name) => Some(name).filter(|name| !name.is_empty()),
            None => Some(detected).filter(|name| fits(name, kinds)).map(str::to_owned),
        };
        let owners = request.owners.unwrap_or_else(|| {
            let found = OWNER_COLUMNS.iter().filter(|name| fits(name, &IDS));
            found.map(|name| name.to_string()).collect()
        });
        let guarded = request.guarded.unwrap_or_else(|| {
            let is_of_users = table.column(ROLE_COLUMN).is_some();
            let found = [ROLE_COLUMN, &request.tenant, ID_COLUMN];
            let found =
                found.into_iter().filter(|name| is_of_users && table.column(name).is_some());
            found.map(str::to_owned).collect()
        });
        let ticket = match request.ticket {
            Some(name) => Some(name).filter(|name| !name.is_empty()),
            None => table.column(TICKET_COLUMN).map(|column| column.name.clone()),
        };
        let rules = Rules {
            owners,
            assigned: one(request.assigned, ASSIGNED_COLUMN, &IDS),
            sensitive: one(request.sensitive, SENSITIVE_COLUMN, &[Kind::Boolean]),
            ticket,
            guarded,
            tenant: request.tenant,
            readable: request.readable,
        };
        rules.check(table)?;
        Ok(rules)
    }

    /// Errors: as [`Rules::resolve`].
    pub fn check(&self, table: &Table) -> Result<(), SetupError> {
        let column = |argument: &'static str, name: &str| {
            table.column(name).ok_or_else(|| SetupError::NoColumn {
                table: table.name.clone(),
                column: name.to_owned(),
                argument,
            })
        };
        let of_kind = |argument, name: &str, kinds: &[Kind], wanted| {
            let column = column(argument, name)?;
            if kinds.contains(&column.kind) {
                return Ok(());
            }
            Err(SetupError::ColumnKind {
                table: table.name.clone(),
                column: name.to_owned(),
                type_name: column.type_name.clone(),
                wanted,
            })
        };
        const TEXTS: &str = "uuid, text or varchar";
        of_kind("tenant_column", &self.tenant, &IDS, TEXTS)?;
        for owner in &self.owners {
            of_kind("owner_columns", owner, &IDS, TEXTS)?;
        }
        if let Some(assigned) = &self.assigned {
            of_kind("assigned_column", assigned, &IDS, TEXTS)?;
        }
        if let Some(sensitive) = &self.sensitive {
            of_kind("sensitive_column", sensitive, &[Kind::Boolean], "boolean")?;
        }
        if let Some(ticket) = &self.ticket {
            column("ticket_column", ticket)?;
        }
        for guarded in &self.guarded {
            column("guarded_columns", guarded)?;
        }
        Ok(())
    }
}

/// What holds the id of a user or a municipality.
const IDS: [Kind; 2] = [Kind::Uuid, Kind::Text];

#[cfg(test)]
pub mod tests {
    use super::*;
    use Kind::*;

    pub fn column(name: &str, kind: Kind, is_exact: bool) -> Column {
        let (name, quoted) = (name.to_owned(), name.to_owned());
        let type_name = format!("{kind:?}");
        Column { name, quoted, kind, is_exact, is_deterministic: true, type_name }
    }

    /// The application's table of tickets, as far as the rules see it.
    pub fn tickets() -> Table {
        Table {
            name: "public.tickets".to_owned(),
            short_name: "tickets".to_owned(),
            columns: vec![
                column("id", Uuid, true),
                column("tenant_id", Text, false),
                column("user_id", Uuid, true),
                column("assigned_to", Uuid, true),
                column("is_sensitive", Boolean, true),
                column("created_by", Text, false),
                column("created_at", Other(1184), true),
            ],
        }
    }

    pub fn request() -> Request {
        Request {
            tenant: "tenant_id".to_owned(),
            owners: None,
            assigned: None,
            sensitive: None,
            ticket: None,
            guarded: None,
            readable: Readable::Staff,
        }
    }

    #[test]
    fn columns_are_detected_by_name_and_type() {
        let rules = Rules::resolve(request(), &tickets()).unwrap();
        assert_eq!(rules.owners, ["user_id", "created_by"]);
        assert_eq!(rules.assigned.as_deref(), Some("assigned_to"));
        assert_eq!(rules.sensitive.as_deref(), Some("is_sensitive"));
        assert_eq!(rules.ticket, None);
        assert_eq!(rules.guarded, Vec::<String>::new());
        let mut other = tickets();
        other.columns[2].kind = Other(20);
        other.columns[4].kind = Text;
        let rules = Rules::resolve(request(), &other).unwrap();
        assert_eq!((rules.owners, rules.sensitive), (vec!["created_by".to_owned()], None));
    }

    #[test]
    fn a_table_with_a_role_has_guarded_columns() {
        let mut users = tickets();
        users.columns.push(column("role", Other(99), true));
        let rules = Rules::resolve(request(), &users).unwrap();
        assert_eq!(rules.guarded, ["role", "tenant_id", "id"]);
        let none = Request { guarded: Some(vec![]), ..request() };
        assert!(Rules::resolve(none, &users).unwrap().guarded.is_empty());
    }

    #[test]
    fn an_empty_name_turns_a_rule_off() {
        let off = Request {
            owners: Some(vec![]),
            assigned: Some(String::new()),
            sensitive: Some(String::new()),
            ..request()
        };
        let rules = Rules::resolve(off, &tickets()).unwrap();
        assert_eq!((rules.owners, rules.assigned, rules.sensitive), (vec![], None, None));
    }

    #[test]
    fn a_named_column_must_exist_and_fit() {
        let name = |name: &str| Some(name.to_owned());
        for request in [
            Request { tenant: "municipality".to_owned(), ..request() },
            Request { owners: Some(vec!["owner".to_owned()]), ..request() },
            Request { assigned: name("worker"), ..request() },
            Request { sensitive: name("secret"), ..request() },
            Request { ticket: name("ticket"), ..request() },
            Request { guarded: Some(vec!["role".to_owned()]), ..request() },
        ] {
            let error = Rules::resolve(request, &tickets()).unwrap_err();
            assert!(matches!(error, SetupError::NoColumn { .. }), "{error:?}");
        }
        for request in [
            Request { tenant: "is_sensitive".to_owned(), ..request() },
            Request { owners: Some(vec!["created_at".to_owned()]), ..request() },
            Request { assigned: name("is_sensitive"), ..request() },
            Request { sensitive: name("created_by"), ..request() },
        ] {
            let error = Rules::resolve(request, &tickets()).unwrap_err();
            assert!(matches!(error, SetupError::ColumnKind { .. }), "{error:?}");
        }
    }
}
