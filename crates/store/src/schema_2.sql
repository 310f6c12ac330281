-- The second version: hot-plug, growth, cancelling, autostart, requests that are known again.
-- A CHECK cannot be altered, so two tables are made anew (SQLite, "ALTER TABLE", 7); their lists of
-- words are gone: the words are checked by who writes and who reads them.

ALTER TABLE templates ADD COLUMN root_disk_gib INTEGER
    CHECK (root_disk_gib IS NULL OR (boot = 'root-disk' AND root_disk_gib > 0));
UPDATE templates SET root_disk_gib = 10 WHERE boot = 'root-disk';

ALTER TABLE vms ADD COLUMN autostart INTEGER NOT NULL DEFAULT 0 CHECK (autostart IN (0, 1));

CREATE TABLE new_disks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    size_gib INTEGER NOT NULL CHECK (size_gib > 0),
    format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
    bus TEXT NOT NULL CHECK (bus IN ('virtio-scsi', 'virtio-blk')),
    state TEXT NOT NULL,
    state_reason TEXT CHECK ((state_reason IS NOT NULL) = (state = 'failed')),
    wanted_gib INTEGER CHECK ((wanted_gib IS NOT NULL) = (state = 'resizing')),
    mount_point TEXT CHECK (mount_point GLOB '/dev/[sv]d[a-z]'),
    vm TEXT REFERENCES vms (id),
    generation INTEGER NOT NULL CHECK (generation > 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
-- What was made before was always virtio-blk: a guest may know its disk by that name.
INSERT INTO new_disks SELECT seq, id, size_gib, format, 'virtio-blk', state, state_reason, NULL,
    mount_point, vm, generation, created_at, updated_at FROM disks;
DROP TABLE disks;
ALTER TABLE new_disks RENAME TO disks;
-- The eighth character is the letter; two mount points of one letter clash.
CREATE UNIQUE INDEX disks_by_place ON disks (vm, substr(mount_point, 8))
    WHERE vm IS NOT NULL AND mount_point IS NOT NULL;
CREATE INDEX disks_by_vm ON disks (vm) WHERE vm IS NOT NULL;

CREATE TABLE new_operations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    -- The VM in whose turn it is carried out, where that is not its subject.
    turn_of TEXT,
    verb TEXT NOT NULL,
    reason TEXT NOT NULL,
    issue TEXT REFERENCES issues (id) CHECK ((issue IS NOT NULL) = (reason = 'repair')),
    policy TEXT CHECK ((policy IS NOT NULL) = (reason = 'repair')),
    state TEXT NOT NULL,
    error TEXT CHECK ((error IS NOT NULL) = (state IN ('failed', 'cancelled'))),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    created_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
INSERT INTO new_operations SELECT seq, id, subject_kind, subject_id, NULL, verb, reason, issue,
    policy, state, error, 0, created_at, ended_at FROM operations;
DROP TABLE operations;
ALTER TABLE new_operations RENAME TO operations;
CREATE INDEX operations_unended ON operations (seq) WHERE state IN ('pending', 'running');
CREATE INDEX operations_ended ON operations (seq) WHERE state NOT IN ('pending', 'running');
CREATE INDEX operations_by_issue ON operations (issue) WHERE issue IS NOT NULL;
CREATE INDEX operations_by_repaired ON operations (subject_kind, subject_id, created_at)
    WHERE reason = 'repair';

CREATE TABLE requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    template TEXT,
    subject_kind TEXT CHECK ((subject_kind IS NULL) = (template IS NOT NULL)),
    subject_id TEXT CHECK ((subject_id IS NULL) = (template IS NOT NULL)),
    operation TEXT CHECK (operation IS NULL OR subject_id IS NOT NULL),
    at INTEGER NOT NULL
) STRICT;

-- What is known of the host, one row.
CREATE TABLE host (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    boot_id TEXT NOT NULL
) STRICT;
