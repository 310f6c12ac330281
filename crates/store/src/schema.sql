-- The first version of the records. Times are milliseconds since 1970-01-01 00:00 UTC, ids are
-- UUIDs in their usual text form, `seq` is the order of creation.

CREATE TABLE templates (
    name TEXT NOT NULL PRIMARY KEY,
    cpu_count INTEGER NOT NULL CHECK (cpu_count > 0),
    ram_mib INTEGER NOT NULL CHECK (ram_mib > 0),
    boot TEXT NOT NULL CHECK (boot IN ('kernel', 'firmware', 'root-disk')),
    kernel TEXT CHECK ((kernel IS NOT NULL) = (boot = 'kernel')),
    initrd TEXT CHECK (initrd IS NULL OR boot = 'kernel'),
    cmdline TEXT CHECK ((cmdline IS NOT NULL) = (boot = 'kernel')),
    firmware TEXT CHECK ((firmware IS NOT NULL) = (boot = 'firmware')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE vms (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT,
    template TEXT NOT NULL REFERENCES templates (name),
    state TEXT NOT NULL CHECK (state IN
        ('stopped', 'starting', 'running', 'paused', 'stopping', 'failed', 'deleting')),
    state_reason TEXT CHECK ((state_reason IS NOT NULL) = (state = 'failed')),
    generation INTEGER NOT NULL CHECK (generation > 0),
    -- The machine: no backend, no machine; no pid, a machine that is not a process.
    backend TEXT,
    pid INTEGER CHECK (pid IS NULL OR backend IS NOT NULL),
    start_time INTEGER CHECK ((start_time IS NULL) = (pid IS NULL)),
    boot_id TEXT CHECK ((boot_id IS NULL) = (pid IS NULL)),
    address TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX vms_by_template ON vms (template);

-- One disk, one writer: its holder is one column of its one row.
CREATE TABLE disks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    size_gib INTEGER NOT NULL CHECK (size_gib > 0),
    format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
    state TEXT NOT NULL CHECK (state IN
        ('creating', 'available', 'attaching', 'attached', 'detaching', 'missing', 'failed',
         'deleting')),
    state_reason TEXT CHECK ((state_reason IS NOT NULL) = (state = 'failed')),
    mount_point TEXT CHECK (mount_point GLOB '/dev/[sv]d[a-z]'),
    vm TEXT REFERENCES vms (id),
    generation INTEGER NOT NULL CHECK (generation > 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
-- The eighth character is the letter; two mount points of one letter clash.
CREATE UNIQUE INDEX disks_by_place ON disks (vm, substr(mount_point, 8))
    WHERE vm IS NOT NULL AND mount_point IS NOT NULL;
CREATE INDEX disks_by_vm ON disks (vm) WHERE vm IS NOT NULL;

CREATE TABLE issues (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    generation INTEGER,
    message TEXT NOT NULL,
    facts TEXT NOT NULL CHECK (json_valid(facts)),
    candidates TEXT NOT NULL CHECK (json_valid(candidates)),
    state TEXT NOT NULL CHECK (state IN ('open', 'repairing', 'resolved')),
    repair TEXT CHECK ((repair IS NOT NULL) = (state = 'repairing')),
    resolved_at INTEGER CHECK ((resolved_at IS NOT NULL) = (state = 'resolved')),
    resolution TEXT CHECK ((resolution IS NOT NULL) = (state = 'resolved')),
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    occurrences INTEGER NOT NULL CHECK (occurrences >= 0),
    recheck_at INTEGER
) STRICT;
CREATE INDEX issues_by_fingerprint ON issues (fingerprint);
CREATE INDEX issues_unresolved ON issues (seq) WHERE state <> 'resolved';
CREATE INDEX issues_resolved ON issues (seq) WHERE state = 'resolved';

CREATE TABLE judgements (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    issue TEXT NOT NULL REFERENCES issues (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    policy TEXT NOT NULL,
    policy_hash TEXT NOT NULL,
    mode TEXT NOT NULL,
    fuel INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    -- A decision, or a failure.
    verdict TEXT,
    chosen TEXT CHECK ((chosen IS NULL) = (verdict IS NULL)),
    recheck_after_ms INTEGER CHECK (recheck_after_ms IS NULL OR verdict IS NOT NULL),
    reason_code TEXT CHECK ((reason_code IS NULL) = (verdict IS NULL)),
    facts TEXT CHECK ((facts IS NULL) = (verdict IS NULL)),
    failure TEXT CHECK ((failure IS NULL) = (verdict IS NOT NULL)),
    trace TEXT CHECK (trace IS NULL OR failure IS NOT NULL),
    -- Of the decision or of the failure.
    message TEXT NOT NULL
) STRICT;
CREATE INDEX judgements_by_issue ON judgements (issue, seq);

CREATE TABLE operations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    verb TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('user', 'repair', 'guest')),
    issue TEXT REFERENCES issues (id) CHECK ((issue IS NOT NULL) = (reason = 'repair')),
    policy TEXT CHECK ((policy IS NOT NULL) = (reason = 'repair')),
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'succeeded', 'failed')),
    error TEXT CHECK ((error IS NOT NULL) = (state = 'failed')),
    created_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
CREATE INDEX operations_unended ON operations (seq) WHERE state IN ('pending', 'running');
CREATE INDEX operations_ended ON operations (seq) WHERE state IN ('succeeded', 'failed');
CREATE INDEX operations_by_issue ON operations (issue) WHERE issue IS NOT NULL;
CREATE INDEX operations_by_repaired ON operations (subject_kind, subject_id, created_at)
    WHERE reason = 'repair';

CREATE TABLE operation_steps (
    operation TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    effect TEXT NOT NULL,
    undo TEXT,
    state TEXT NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    note TEXT,
    PRIMARY KEY (operation, position)
) STRICT, WITHOUT ROWID;
