-- pg_paxos 0.1.0: what CREATE EXTENSION makes.
--
-- Written by hand: the build needs no schema generator, and who reads it sees the rights of each function beside it.
-- A test holds every symbol named here against those that the library exports, both ways.
--
-- Rights: what changes groups, or reaches other servers, is for pg_paxos_admin; what only shows state is for everyone.
-- Functions that write pgp_metadata are SECURITY DEFINER with a fixed search_path.

\echo Use "CREATE EXTENSION pg_paxos" to load this file. \quit

-- ---------------------------------------------------------------------------------------------------------------
-- The role. CREATE ROLE refuses names that begin with pg_, so it is made under another name and renamed in place.
-- It is shared by all databases, hence may exist already; DROP EXTENSION leaves it, as other databases may use it.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_paxos_admin') THEN
        CREATE ROLE paxos_admin_being_created NOLOGIN;
        SET LOCAL allow_system_table_mods = on;
        UPDATE pg_catalog.pg_authid SET rolname = 'pg_paxos_admin' WHERE rolname = 'paxos_admin_being_created';
        SET LOCAL allow_system_table_mods = off;
    END IF;
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Metadata. Every member keeps its own, written by the applier and the functions below; relation numbers differ
-- from server to server, so rows are found by the numbers that the log assigns. Not dumped: a restored dump is not
-- a member of anything.

CREATE SCHEMA pgp_metadata;

-- The tables of this database that a group replicates. table_id is assigned in the group's log.
CREATE TABLE pgp_metadata.local_table (
    group_id uuid NOT NULL,
    table_id bigint NOT NULL CHECK (table_id > 0 AND table_id <= 4294967295),
    relation regclass NOT NULL UNIQUE,
    PRIMARY KEY (group_id, table_id)
);

-- The rounds of groups used as a log of values by hand (paxos, paxos_append).
-- The first value for a round, in log order, wins; slot says which entry of the log brought it.
CREATE TABLE pgp_metadata.raw_round (
    group_id uuid NOT NULL,
    round_num bigint NOT NULL CHECK (round_num > 0),
    slot bigint NOT NULL,
    proposer_id text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (group_id, round_num),
    UNIQUE (group_id, slot)
);

-- The trigger that records what is changed in a replicated table. paxos_replicate_table puts it there; nobody else may.
CREATE FUNCTION pgp_metadata.capture()
    RETURNS trigger LANGUAGE c
    AS 'MODULE_PATHNAME', 'paxos_capture_wrapper';
REVOKE ALL ON FUNCTION pgp_metadata.capture() FROM PUBLIC;

-- Parts of the rows of large tables that are becoming replicated, until the transaction that sent them takes them.
CREATE TABLE pgp_metadata.staged_rows (
    group_id uuid NOT NULL,
    lot uuid NOT NULL,
    part bigint NOT NULL,
    slot bigint NOT NULL,
    rows bytea NOT NULL,
    PRIMARY KEY (group_id, lot, part)
);
ALTER TABLE pgp_metadata.staged_rows ALTER COLUMN rows SET STORAGE EXTERNAL;

-- ---------------------------------------------------------------------------------------------------------------
-- Groups.

CREATE FUNCTION paxos_create_group(current_group_id text, founder_connection_string text)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_create_group_wrapper';
COMMENT ON FUNCTION paxos_create_group(text, text)
    IS 'create a group whose first member is this server; the connection string is how other members reach it';

CREATE FUNCTION paxos_create_group(current_group_id text, own_host text, own_port integer)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_create_group_host_wrapper';
COMMENT ON FUNCTION paxos_create_group(text, text, integer)
    IS 'create a group whose first member is this server, reached at this host and port';

CREATE FUNCTION paxos_join_group(current_group_id text, existing_connection_string text, own_connection_string text)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_join_group_wrapper';
COMMENT ON FUNCTION paxos_join_group(text, text, text)
    IS 'make this server a member of a group: copies its tables from the existing member, catches up, then votes';

CREATE FUNCTION paxos_join_group(current_group_id text, existing_host text, existing_port integer,
                                 own_host text, own_port integer)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_join_group_host_wrapper';
COMMENT ON FUNCTION paxos_join_group(text, text, integer, text, integer)
    IS 'make this server a member of a group, both servers named by host and port';

CREATE FUNCTION paxos_leave_group(current_group_id text)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_leave_group_wrapper';
COMMENT ON FUNCTION paxos_leave_group(text)
    IS 'end this server''s membership; its tables keep their rows and become ordinary tables';

CREATE FUNCTION paxos_remove_host(current_group_id text, connection_string text)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_remove_host_wrapper';
COMMENT ON FUNCTION paxos_remove_host(text, text)
    IS 'remove a member that is gone for good, named by its connection string, node id or engine address';

CREATE FUNCTION paxos_remove_host(current_proposer_id text, current_group_id text, connection_string text)
    RETURNS bigint LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_remove_host_proposer_wrapper';
COMMENT ON FUNCTION paxos_remove_host(text, text, text)
    IS 'remove a member that is gone for good; returns the epoch of the new configuration';

CREATE FUNCTION paxos_replicate_table(current_group_id text, new_table_oid regclass)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_replicate_table_wrapper';
COMMENT ON FUNCTION paxos_replicate_table(text, regclass)
    IS 'replicate a table with its rows to all members of a group; once, on any member';

-- ---------------------------------------------------------------------------------------------------------------
-- The log by hand.

CREATE FUNCTION paxos(current_proposer_id text, current_group_id text, current_round_num bigint,
                      proposed_value text DEFAULT NULL)
    RETURNS TABLE (accepted_value text, value_changed boolean)
    LANGUAGE c ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_wrapper';
COMMENT ON FUNCTION paxos(text, text, bigint, text)
    IS 'propose a value for a round; gives the value that the round has, and whether it is another than proposed';

CREATE FUNCTION paxos_append(current_proposer_id text, current_group_id text, proposed_value text)
    RETURNS bigint LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_append_wrapper';
COMMENT ON FUNCTION paxos_append(text, text, text)
    IS 'append a value to a group''s log; returns its round';

CREATE FUNCTION paxos_apply_and_append(current_proposer_id text, current_group_id text, proposed_value text)
    RETURNS bigint LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_apply_and_append_wrapper';
COMMENT ON FUNCTION paxos_apply_and_append(text, text, text)
    IS 'append a value once this server has applied everything before it; returns its round';

CREATE FUNCTION paxos_apply_log(current_proposer_id text, current_group_id text, max_round_num bigint)
    RETURNS bigint LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_apply_log_wrapper';
COMMENT ON FUNCTION paxos_apply_log(text, text, bigint)
    IS 'wait until this server has applied a group''s log up to a round';

CREATE FUNCTION paxos_max_group_round(current_group_id text, accepted_only boolean DEFAULT true)
    RETURNS bigint LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_max_group_round_wrapper';
COMMENT ON FUNCTION paxos_max_group_round(text, boolean)
    IS 'the highest round that a majority of the group knows';

CREATE FUNCTION paxos_transaction_status(transaction_id text)
    RETURNS text LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'paxos_transaction_status_wrapper';
COMMENT ON FUNCTION paxos_transaction_status(text)
    IS 'what became of a transaction whose outcome was unknown (SQLSTATE 08007): committed, aborted, expired or in progress';

CREATE FUNCTION paxos_last_transaction_id()
    RETURNS text LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'paxos_last_transaction_id_wrapper';
COMMENT ON FUNCTION paxos_last_transaction_id()
    IS 'the id under which this session last proposed a transaction, for paxos_transaction_status';

-- ---------------------------------------------------------------------------------------------------------------
-- State, for everyone.

CREATE FUNCTION paxos_groups(
        OUT group_name text, OUT group_id uuid, OUT database_name text, OUT node_id uuid,
        OUT own_connection_string text, OUT epoch bigint, OUT applied bigint)
    RETURNS SETOF record LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'paxos_groups_wrapper';
COMMENT ON FUNCTION paxos_groups() IS 'the groups that this server is a member of';

CREATE FUNCTION paxos_status(
        OUT group_name text, OUT node_id uuid, OUT connection_string text, OUT address text, OUT database_name text,
        OUT role text, OUT is_self boolean, OUT is_live boolean, OUT is_owner boolean, OUT epoch bigint,
        OUT chosen bigint, OUT applied bigint, OUT lag bigint, OUT state text, OUT apply_error text)
    RETURNS SETOF record LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'paxos_status_wrapper';
COMMENT ON FUNCTION paxos_status() IS 'every member of every group of this server, as this server sees it';

CREATE FUNCTION pgp_metadata.rounds(
        OUT group_name text, OUT round_num bigint, OUT proposer_id text, OUT value_id text, OUT value text,
        OUT consensus boolean, OUT error text)
    RETURNS SETOF record LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_rounds_wrapper';
COMMENT ON FUNCTION pgp_metadata.rounds() IS 'what the view pgp_metadata.round shows';

CREATE VIEW pgp_metadata."group" AS
    SELECT group_name AS group_id, applied AS last_applied_round, own_connection_string
    FROM paxos_groups();

CREATE VIEW pgp_metadata.host AS
    SELECT group_name AS group_id, connection_string, 1::bigint AS min_round_num, NULL::bigint AS max_round_num,
           node_id, address, role
    FROM paxos_status();

CREATE VIEW pgp_metadata.round AS
    SELECT group_name AS group_id, round_num, 0::bigint AS min_proposal_num, proposer_id, value_id, value,
           0::bigint AS accepted_proposal_num, consensus, error
    FROM pgp_metadata.rounds();

CREATE VIEW pgp_metadata.replicated_tables AS
    SELECT local_table.relation AS table_oid, groups.group_name AS group_id
    FROM pgp_metadata.local_table JOIN paxos_groups() AS groups USING (group_id);

CREATE VIEW pg_stat_paxos AS SELECT * FROM paxos_status();
COMMENT ON VIEW pg_stat_paxos IS 'every member of every group of this server, as this server sees it';
COMMENT ON COLUMN pg_stat_paxos.node_id IS 'the member''s identity, made when its data directory was';
COMMENT ON COLUMN pg_stat_paxos.connection_string IS 'how other members reach its PostgreSQL';
COMMENT ON COLUMN pg_stat_paxos.address IS 'where the other members'' engines reach its engine';
COMMENT ON COLUMN pg_stat_paxos.database_name IS 'which of its databases holds the group''s tables';
COMMENT ON COLUMN pg_stat_paxos.role IS 'voter; witness: votes and holds no tables; new witness, learner: joins, and has no vote yet; away: a voter that lags too far for a witness, and votes again once it has caught up; leaving; none: was removed';
COMMENT ON COLUMN pg_stat_paxos.is_self IS 'whether it is this server';
COMMENT ON COLUMN pg_stat_paxos.is_live IS 'whether it was in contact, both ways, within pg_paxos.failure_timeout';
COMMENT ON COLUMN pg_stat_paxos.is_owner IS 'whether it appends to the log in one round trip; it changes by itself when that member fails';
COMMENT ON COLUMN pg_stat_paxos.epoch IS 'number of the group''s configuration: one more with each change of members';
COMMENT ON COLUMN pg_stat_paxos.chosen IS 'slot up to which it is known to have the log';
COMMENT ON COLUMN pg_stat_paxos.applied IS 'slot up to which its tables hold the log; NULL for other servers, which alone know';
COMMENT ON COLUMN pg_stat_paxos.lag IS 'slots of the log, as this server knows it, that it lacks';
COMMENT ON COLUMN pg_stat_paxos.state IS 'this server: serving, applying, copying, needs copy, changing members, stopped or removed; others: answering or silent';
COMMENT ON COLUMN pg_stat_paxos.apply_error IS 'why this server stopped applying; NULL if it did not';

-- ---------------------------------------------------------------------------------------------------------------
-- Between members: what one server asks of another, over an ordinary connection.

CREATE FUNCTION pgp_metadata.admit_member(
        group_name text, node_id uuid, address text, public_key bytea, connection_string text, database_name text)
    RETURNS TABLE (group_id uuid, admission bytea)
    LANGUAGE c STRICT ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_admit_member_wrapper';

CREATE FUNCTION pgp_metadata.admit_witness(group_name text, node_id uuid, address text, public_key bytea)
    RETURNS TABLE (group_id uuid, admission bytea)
    LANGUAGE c STRICT ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_admit_witness_wrapper';

CREATE FUNCTION pgp_metadata.promote_member(group_id uuid, node_id uuid)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_promote_member_wrapper';

CREATE FUNCTION pgp_metadata.mark_snapshot(group_id uuid)
    RETURNS TABLE (slot bigint, snapshot text, checkpoint bytea)
    LANGUAGE c STRICT ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_mark_snapshot_wrapper';

CREATE FUNCTION pgp_metadata.release_mark(group_id uuid, slot bigint)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_release_mark_wrapper';

CREATE FUNCTION pgp_metadata.group_tables(group_name text)
    RETURNS TABLE (group_id uuid, definition bytea)
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_group_tables_wrapper';

CREATE FUNCTION pgp_metadata.describe_tables(group_id uuid)
    RETURNS TABLE (table_id bigint, definition bytea, is_binary boolean, bytes bigint)
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_describe_tables_wrapper';

CREATE FUNCTION pgp_metadata.table_obstacle(definition bytea)
    RETURNS text LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_table_obstacle_wrapper';

CREATE FUNCTION pgp_metadata.await_applied(group_id uuid, slot bigint)
    RETURNS void LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'paxos_await_applied_wrapper';

-- ---------------------------------------------------------------------------------------------------------------
-- Rights.

DO $$
DECLARE
    administration regprocedure;
BEGIN
    FOREACH administration IN ARRAY ARRAY[
        'paxos_create_group(text, text)', 'paxos_create_group(text, text, integer)',
        'paxos_join_group(text, text, text)', 'paxos_join_group(text, text, integer, text, integer)',
        'paxos_leave_group(text)', 'paxos_remove_host(text, text)', 'paxos_remove_host(text, text, text)',
        'paxos_replicate_table(text, regclass)',
        'paxos(text, text, bigint, text)', 'paxos_append(text, text, text)', 'paxos_apply_and_append(text, text, text)',
        'paxos_apply_log(text, text, bigint)', 'paxos_max_group_round(text, boolean)',
        'pgp_metadata.admit_member(text, uuid, text, bytea, text, text)', 'pgp_metadata.promote_member(uuid, uuid)',
        'pgp_metadata.admit_witness(text, uuid, text, bytea)',
        'pgp_metadata.mark_snapshot(uuid)', 'pgp_metadata.release_mark(uuid, bigint)',
        'pgp_metadata.group_tables(text)', 'pgp_metadata.describe_tables(uuid)', 'pgp_metadata.table_obstacle(bytea)',
        'pgp_metadata.await_applied(uuid, bigint)'
    ]::regprocedure[] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', administration);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_paxos_admin', administration);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA pgp_metadata TO PUBLIC;
GRANT SELECT ON pgp_metadata."group", pgp_metadata.host, pgp_metadata.round, pgp_metadata.replicated_tables,
    pg_stat_paxos TO PUBLIC;
GRANT SELECT ON pgp_metadata.local_table TO PUBLIC;
