-- Events of prepared transactions, until the relay has published them. Such a transaction writes its row
-- itself, so the row is there once it is committed.
CREATE TABLE civic.prepared_events (
    -- In the order of PREPARE TRANSACTION. A ticket's row is locked until COMMIT PREPARED, so of one ticket
    -- it is the order of the changes, too.
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    events bytea NOT NULL,
    -- Where the relay's queue stood at PREPARE TRANSACTION, and which queue: a restart makes a new one.
    queue bigint NOT NULL,
    place bigint NOT NULL
);

COMMENT ON TABLE civic.prepared_events IS 'events of prepared transactions that the relay has not published yet';
