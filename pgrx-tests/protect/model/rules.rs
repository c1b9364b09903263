//! An independent model of the rules: what the table in docs/security.md says, in other words than the
//! policies.

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    pub tenant: Option<&'static str>,
    pub user: Option<&'static str>,
    pub role: &'static str,
    /// `authenticated`, or `anon`.
    pub is_authenticated: bool,
    /// Whether `civic.deleters` names the role.
    pub is_deleter: bool,
}

/// A row of the table with tickets.
#[derive(Debug, Clone)]
pub struct Case {
    pub id: i32,
    pub tenant: Option<&'static str>,
    pub owner: Option<&'static str>,
    pub creator: Option<&'static str>,
    pub worker: Option<&'static str>,
    pub secret: Option<bool>,
    pub level: Option<&'static str>,
}

/// A row that belongs to a ticket.
#[derive(Debug, Clone)]
pub struct Piece {
    pub id: i32,
    pub tenant: Option<&'static str>,
    pub case: Option<i32>,
    pub creator: Option<&'static str>,
}

/// What becomes of a statement about one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Done,
    /// No row is found.
    Nothing,
    /// 42501.
    Refused,
}

fn outcome(is_allowed: bool) -> Outcome {
    if is_allowed { Outcome::Done } else { Outcome::Refused }
}

impl Asker {
    fn is(&self, roles: &[&str]) -> bool {
        self.tenant.is_some() && roles.iter().any(|role| role.eq_ignore_ascii_case(self.role))
    }

    fn reads_all(&self) -> bool {
        self.is(&["manager", "admin", "saps_liaison", "ward_councillor", "executive_mayor"])
    }

    fn writes_all(&self) -> bool {
        self.is(&["manager", "admin", "saps_liaison"])
    }

    fn reads_secrets(&self) -> bool {
        self.is(&["saps_liaison", "admin"])
    }

    /// Whether a column of text names the user.
    fn is_text(&self, name: Option<&str>) -> bool {
        self.user.is_some() && self.user == name
    }

    /// Whether a column of uuid does: a user whose id is no UUID is named by none.
    fn is_uuid(&self, name: Option<&str>) -> bool {
        self.is_text(name) && self.user.is_some_and(|user| user.len() == 36)
    }

    fn is_of(&self, tenant: Option<&str>) -> bool {
        self.tenant.is_some() && self.tenant == tenant
    }
}

impl Case {
    fn is_in_sight(&self, asker: &Asker) -> bool {
        asker.is_authenticated
            && asker.is_of(self.tenant)
            && (self.secret == Some(false) || asker.reads_secrets())
    }

    pub fn reads(&self, asker: &Asker) -> bool {
        let names =
            asker.is_uuid(self.owner) || asker.is_text(self.creator) || asker.is_uuid(self.worker);
        self.is_in_sight(asker) && (asker.reads_all() || names)
    }

    /// Whether an UPDATE that reads no column reaches it.
    pub fn changes_blindly(&self, asker: &Asker) -> bool {
        self.is_in_sight(asker) && (asker.writes_all() || asker.is_uuid(self.worker))
    }

    pub fn changes(&self, asker: &Asker) -> bool {
        self.changes_blindly(asker) && self.reads(asker)
    }

    pub fn deletes_blindly(&self, asker: &Asker) -> bool {
        self.is_in_sight(asker) && asker.is_deleter && asker.tenant.is_some()
    }

    pub fn deletes(&self, asker: &Asker) -> bool {
        self.deletes_blindly(asker) && self.reads(asker)
    }

    /// Whether the row may be added, but for its guarded column.
    fn is_insertable(&self, asker: &Asker) -> bool {
        let is_mine = asker.is_uuid(self.owner) || asker.is_text(self.creator);
        let is_nobody_elses = (self.owner.is_none() || asker.is_uuid(self.owner))
            && (self.creator.is_none() || asker.is_text(self.creator))
            && self.worker.is_none();
        asker.is_authenticated
            && asker.is_of(self.tenant)
            && (asker.writes_all() || is_mine && is_nobody_elses)
    }

    fn has_harmless_level(&self, asker: &Asker) -> bool {
        asker.is(&["admin"]) || matches!(self.level, None | Some("low"))
    }

    pub fn inserts(&self, asker: &Asker) -> Outcome {
        outcome(self.is_insertable(asker) && self.has_harmless_level(asker))
    }

    pub fn inserts_returning(&self, asker: &Asker) -> Outcome {
        outcome(self.inserts(asker) == Outcome::Done && self.reads(asker))
    }

    /// INSERT of the row that is there ON CONFLICT DO UPDATE of its note.
    pub fn upserts(&self, asker: &Asker) -> Outcome {
        outcome(self.is_insertable(asker) && self.reads(asker) && self.changes_blindly(asker))
    }

    /// MERGE WHEN MATCHED THEN UPDATE: a row that is read but not changed is an error.
    pub fn merges(&self, asker: &Asker) -> Outcome {
        match self.reads(asker) {
            false => Outcome::Nothing,
            true => outcome(self.changes_blindly(asker)),
        }
    }

    fn becomes(&self, asker: &Asker, new: Case) -> Outcome {
        if !self.changes(asker) {
            return Outcome::Nothing;
        }
        let is_promoted = new.level != self.level && !asker.is(&["admin"]);
        outcome(asker.is_of(new.tenant) && new.reads(asker) && !is_promoted)
    }

    pub fn moves(&self, asker: &Asker, tenant: &'static str) -> Outcome {
        self.becomes(asker, Case { tenant: Some(tenant), ..self.clone() })
    }

    pub fn becomes_secret(&self, asker: &Asker) -> Outcome {
        self.becomes(asker, Case { secret: Some(true), ..self.clone() })
    }

    pub fn is_promoted(&self, asker: &Asker) -> Outcome {
        self.becomes(asker, Case { level: Some("high"), ..self.clone() })
    }
}

impl Piece {
    fn is_in_sight(&self, asker: &Asker, cases: &[Case]) -> bool {
        let ticket = self.case.map(|id| cases.iter().find(|case| case.id == id));
        asker.is_authenticated
            && asker.is_of(self.tenant)
            && ticket.is_none_or(|case| case.is_some_and(|case| case.reads(asker)))
    }

    pub fn reads(&self, asker: &Asker, cases: &[Case]) -> bool {
        self.is_in_sight(asker, cases) && (asker.reads_all() || asker.is_text(self.creator))
    }

    pub fn changes_blindly(&self, asker: &Asker, cases: &[Case]) -> bool {
        self.is_in_sight(asker, cases) && asker.writes_all()
    }

    pub fn deletes_blindly(&self, asker: &Asker, cases: &[Case]) -> bool {
        self.is_in_sight(asker, cases) && asker.is_deleter
    }

    pub fn inserts(&self, asker: &Asker, cases: &[Case]) -> Outcome {
        let may = asker.writes_all() || asker.is_text(self.creator);
        outcome(self.is_in_sight(asker, cases) && may)
    }
}
