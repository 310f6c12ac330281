/*
 * Frozen: the header as it was when the contract was at 1.0. It is never changed again, and the
 * tests build plugins with it that every later host must load.
 *
 * The backend contract of vman as C sees it: the constants, the two tables and the words of the
 * messages. For plugins that are not written in Rust, which needs none of this. It has no code in
 * it, and needs nothing but the two headers below, C99 or C++11, and a 64-bit system.
 *
 * A test holds the sizes, places, types, constants and words below against the host's own
 * (`crates/plugin/src/abi.rs` and `wire.rs`). `plugins/example-c` is a backend built on this file,
 * and `plugins/README.md` tells the way from nothing to a loaded plugin.
 *
 * THE ORDER OF CALLS
 *
 *   vman_plugin_entry            once for each time the file is opened
 *   └ create                     any number of times: each success is an instance of its own
 *     ├ submit, cancel           any number of times, in any order
 *     └ destroy                  once, last; never for a `create` that failed
 *
 * THREADS, told of each function by one of
 *
 *   [any]       any thread, at any time, also at the same time as itself.
 *   [instance]  the one thread that the host keeps for the instance, from `create` to `destroy`:
 *               these four are never called at the same time for one instance, but they are for
 *               two. Nobody but this thread waits for them, and while one is at work its instance
 *               does nothing else: each must return soon, and none may wait for a machine. The
 *               host gives up a `create` that takes longer than 10 s.
 *
 * BUFFERS belong to the caller of the function they are given to, and may be read until it returns;
 * what is needed longer is copied. They hold JSON in UTF-8, not ended by a zero byte. Where `len`
 * is 0, `ptr` may be null. Both tables, and what `manifest` points at, may be read for ever: a
 * library is never closed, so threads of a plugin may run on, and its code stays.
 *
 * GROWTH. `vman_plugin` and `vman_host` are only ever appended to; the first five fields of
 * `vman_plugin` and the first two of `vman_host` never move. Read no field that the other side's
 * `size` does not cover. Both sides' majors must be equal, and the smaller minor counts. In JSON a
 * reader ignores fields that it does not know, and every field added later has a default.
 *
 * NOTHING UNWINDS across the border: no C++ exception, no longjmp.
 */
#ifndef VMAN_BACKEND_H
#define VMAN_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Constants ------------------------------------------------------------------------------ */

/* `vman_plugin.magic`: what every plugin's table begins with. */
#define VMAN_MAGIC UINT64_C(0x766d616e706c7567)
/* Another major is another contract. */
#define VMAN_ABI_MAJOR UINT32_C(1)
/* Counts what was appended since the major's first form. */
#define VMAN_ABI_MINOR UINT32_C(0)
/* What `vman_plugin.size` must be at least, to be used at all. */
#define VMAN_PLUGIN_TABLE_1_0_SIZE UINT32_C(80)
/* What `vman_host.size` must be at least, to be used at all. */
#define VMAN_HOST_TABLE_1_0_SIZE UINT32_C(40)
/* Bytes of the longest message either side takes. A longer one is none: an answer then fails its
   operation with `broken`, an event and a log line are dropped. */
#define VMAN_MAX_MESSAGE_BYTES UINT64_C(16777216)

/* How an operation ended, for `vman_host.complete`. With any status but VMAN_STATUS_OK the JSON is
   an error. */
#define VMAN_STATUS_OK INT32_C(0)
#define VMAN_STATUS_FAILED INT32_C(1)

/* How much a log line matters, for `vman_host.log`. A level unknown to the host is taken for
   VMAN_LOG_INFO. */
#define VMAN_LOG_ERROR UINT32_C(1)
#define VMAN_LOG_WARN UINT32_C(2)
#define VMAN_LOG_INFO UINT32_C(3)
#define VMAN_LOG_DEBUG UINT32_C(4)

/* ---- Types ---------------------------------------------------------------------------------- */

/* Bytes lent for the length of a call. */
struct vman_buf {
    const uint8_t *ptr;
    size_t len;
};

/* What the host offers to an instance. Every function may be called from [any] thread, at any time
   until the process ends, also before `create` has returned and after `destroy`; none blocks, and
   none fails. `instance` is the number that was given to `create`; one of an instance that is gone
   leads nowhere. */
struct vman_host {
    /* Bytes of this table. */
    uint32_t size;
    uint32_t abi_minor;

    /* Ends an operation: exactly once for each `submit` that returned 0. `op` is the number given
       to `submit`. With VMAN_STATUS_OK `json` is the verb's result, else an error:
       {"code": VMAN_ERROR_..., "message": "..."}. A second answer, and one that comes after the
       host has given up waiting, is dropped and counted. */
    void (*complete)(uint64_t instance, uint64_t op, int32_t status, struct vman_buf json);

    /* Tells something nobody asked for: see EVENTS. An event is a hint: the host drops it, and
       counts it, where it does not parse or 1024 others wait. What must be known is found by
       `survey`. */
    void (*emit_event)(uint64_t instance, struct vman_buf json);

    /* Writes a line to the host's log, under the plugin's name: {"message": "..."}. `level` is one
       of VMAN_LOG_... */
    void (*log)(uint64_t instance, uint32_t level, struct vman_buf json);

    /* Optional powers of the host by name and revision. Null for an unknown one; there is none
       yet. */
    const void *(*get_extension)(const char *id);
};

/* What a plugin offers. A null function is refused, but for `get_extension`. */
struct vman_plugin {
    /* VMAN_MAGIC */
    uint64_t magic;
    /* sizeof(struct vman_plugin) */
    uint32_t size;
    /* VMAN_ABI_MAJOR */
    uint32_t abi_major;
    /* VMAN_ABI_MINOR */
    uint32_t abi_minor;
    /* See MANIFEST. Always the same. */
    struct vman_buf manifest;

    /* [instance] Makes an instance and returns what the other three are given; null on failure.
       Touches no machine: it is called also for backends that are then not chosen. `host` may be
       read for ever. `instance` is the number to call the host by. `config` is
           {"machines_dir": "/...", "settings": {...}}
       where `machines_dir` is the folder that holds one directory for each machine, named by its
       id, and `settings` the table `[backends.<name>]` of the configuration, {} where absent.
       On failure `*error` is set to an error, which stays readable until this thread's next call
       into the plugin; left as it is, the failure is `broken`. Several instances may live at the
       same time, and machines outlive them all: a new one finds the machines of an earlier one. */
    void *(*create)(const struct vman_host *host, uint64_t instance, struct vman_buf config,
                    struct vman_buf *error);

    /* [instance] Takes an operation: {"op": VMAN_OP_..., "params": {...}}, see OPERATIONS. Returns
       0, and the operation is answered by `complete` exactly once, from any thread, now or later;
       or another number, and it is not answered: it then fails as `broken`. `op` names the
       operation, and no other one that is under way. At most 256 are under way at the same time.

       Verbs are idempotent: the host repeats one whose answer it lost. Those of different machines
       and images are under way at the same time. Those of one machine or image are not, but for
       two cases: `sight` and `survey`, which come at any time and must wait for no machine; and
       the verb that comes after `cancel`, see there.

       A request that does not parse is answered with `invalid`, an operation whose name is unknown
       with `unsupported`: a later host may know more of them. */
    int32_t (*submit)(void *instance, uint64_t op, struct vman_buf request);

    /* [instance] Nobody waits for this operation any longer, or its deadline has passed: it is to
       end soon, however that comes out, and is still answered; `timeout` says that it ended for
       this. Ignored for one that has ended. The next verb of the same machine or image may be
       submitted right after: it must begin only when the cancelled one is over. An operation whose
       deadline has passed has one second more for its answer. */
    void (*cancel)(void *instance, uint64_t op);

    /* [instance] Ends the instance, and no machine. Operations under way may still be answered, to
       nobody's knowledge. `instance` is not used again. */
    void (*destroy)(void *instance);

    /* [any] Optional powers of the plugin by name and revision, e.g. "vman.snapshot/1". Null for an
       unknown one. May itself be null. This host asks for none. */
    const void *(*get_extension)(const char *id);
};

#if defined(__GNUC__)
#define VMAN_EXPORT __attribute__((visibility("default")))
#else
#define VMAN_EXPORT
#endif

/* [any] The one symbol of a plugin file, which the plugin defines: its table, or null if it has
   none to give. */
VMAN_EXPORT const struct vman_plugin *vman_plugin_entry(void);

/* ---- MANIFEST -------------------------------------------------------------------------------

   {
     "name": "...",             1 to 64 of a-z, 0-9 and `-`: what `[backend] use` names
     "version": "...",          the plugin's own, semver
     "description": "...",      one line for people
     "capabilities": {          each may be absent, which is false or []
       "processes": BOOL,       every machine is a process of its own, told in `process`
       "power_button": BOOL,    the guest can be asked to power off
       "image_formats": [...],  what `create-image` makes: "qcow2", "raw"
       "pause": BOOL,           there are `pause` and `resume`
       "reset": BOOL,           there is `reset`
       "hot_plug": [...],       buses on which a running machine gains and loses disks:
                                "virtio-scsi", "virtio-blk"; there are `attach-disk`,
                                `detach-disk` and `resize-disk`
       "resize": BOOL           there is `resize-image`
     },
     "sdk": "..."               may be absent; what the plugin was built with, for people
   }

   ---- OPERATIONS -----------------------------------------------------------------------------

   Each with its params, its result, and how long the host waits for it. What a verb must do and
   which error it owes is told in full with the trait of the same verbs, `Backend` in
   `crates/plugin/src/backend.rs`, and every field in `crates/plugin/src/message.rs`.

   An ID is a UUID in lower case with hyphens, a PATH is absolute, a SIZE is a number of bytes.

   MACHINE   {"id": ID, "process": PROCESS or null}      null without the capability `processes`
   PROCESS   {"pid": N, "start_time": N, "boot_id": ID}  names one process for ever: start_time is
                                                         field 22 of /proc/PID/stat, boot_id is
                                                         /proc/sys/kernel/random/boot_id
   DISK      {"id": ID, "path": PATH, "format": FORMAT, "serial": "...", "bus": BUS}
   FORMAT    "qcow2" or "raw"
   BUS       "virtio-scsi" or "virtio-blk"
   STATE     "running", "paused", "guest-shutdown" (it waits to be ended), "guest-panicked",
             "io-error", "internal-error"; what else a backend says is taken for "other"
   SIGHTING  {"machine": MACHINE, "control": "connected", "run_state": STATE, ...} or
             {"machine": MACHINE, "control": "unreachable", "reason": "...", ...}: it lives, and
             does not answer; in both
               "age_ms": N          since it last answered what is told; absent is 0
               "disks": [ID...]     those it has; null or absent is not known
   END       {"machine": MACHINE, "cause": CAUSE, "detail": "..."}
   CAUSE     "guest-shutdown", "guest-panic", "asked" (by `quit` or `kill`), "killed",
             "out-of-memory", "failed", "unknown"
*/

/* Can this host run machines with this backend? Tries it rather than guessing. 30 s.
   {}  ->  {"usable": BOOL, "reason": "...", "hypervisor": "..." or null, "notes": ["..."...]} */
#define VMAN_OP_PROBE "probe"
/* Starts a machine, and answers once it does. One that lives already is returned as it is. On
   failure nothing of it is left running. 60 s.
   {"id": ID, "directory": PATH, "cpu_count": N, "ram_mib": N, "boot": BOOT, "disks": [DISK...],
    "nic": NIC}  ->  MACHINE
   BOOT  {"from": "kernel", "kernel": PATH, "initrd": PATH or null, "cmdline": "..."},
         {"from": "firmware", "firmware": PATH} or {"from": "root-disk"}
   NIC   {"mode": "none"} or {"mode": "user", "mac": "...", "network": "10.0.0.0/24",
         "gateway": "10.0.0.1", "address": "10.0.0.2", "dns": "..." or null} */
#define VMAN_OP_LAUNCH "launch"
/* Finds a machine again after the host or the instance was started anew, and takes up its events.
   `not-found` if it is gone, or if another process has its pid now. 10 s.
   MACHINE  ->  SIGHTING */
#define VMAN_OP_REATTACH "reattach"
/* Asks the guest to power off, and waits for nothing. `not-found` if the machine is gone. 10 s.
   {"id": ID}  ->  null */
#define VMAN_OP_POWER_BUTTON "power-button"
/* Ends the machine with its help, and answers when it is gone. Gone already is a success. 30 s.
   {"id": ID}  ->  null */
#define VMAN_OP_QUIT "quit"
/* Ends the machine without its help, and answers when it is gone. Gone already is a success.
   Signals no process but one that was verified to be this machine. 10 s.
   {"id": ID}  ->  null */
#define VMAN_OP_KILL "kill"
/* Makes an image. One that is there with this format and size is a success, with another
   `conflict`; none is ever overwritten. SIZE is a multiple of 512. 60 s.
   {"path": PATH, "format": FORMAT, "virtual_size": SIZE}  ->  null */
#define VMAN_OP_CREATE_IMAGE "create-image"
/* Reads an image's format and sizes, also while a machine has it open. `not-found` if the file is
   not there, `conflict` if it is of another format. 10 s.
   {"path": PATH, "format": FORMAT}  ->
   {"format": FORMAT, "virtual_size": SIZE, "actual_size": SIZE on the host} */
#define VMAN_OP_INSPECT_IMAGE "inspect-image"
/* Removes an image; gone already is a success. 60 s.
   {"path": PATH, "format": FORMAT}  ->  null */
#define VMAN_OP_DELETE_IMAGE "delete-image"
/* Lists every living machine below `machines_dir`, whoever started it; a machine that is not
   listed is absent. An error means that the host could not be looked at. Waits for no machine.
   `ended` may be absent: the last machines that ended while this instance watched them, one end of
   each. 10 s.
   {}  ->  {"machines": [SIGHTING...], "ended": [END...]} */
#define VMAN_OP_SURVEY "survey"
/* What `survey` would tell of one machine; null if it is gone. Waits for no machine. Where it is
   `unsupported` the host surveys instead. 10 s.
   {"id": ID}  ->  SIGHTING or null */
#define VMAN_OP_SIGHT "sight"
/* Halts the guest; one that is halted is a success. Needs the capability `pause`. 10 s.
   {"id": ID}  ->  null */
#define VMAN_OP_PAUSE "pause"
/* Lets a halted guest go on; one that runs is a success. Needs the capability `pause`. 10 s.
   {"id": ID}  ->  null */
#define VMAN_OP_RESUME "resume"
/* Presses the reset button: the guest is not asked, the process stays. Needs the capability
   `reset`. 10 s.
   {"id": ID}  ->  null */
#define VMAN_OP_RESET "reset"
/* Gives a running machine a disk; one it has is a success. Needs the bus in the capability
   `hot_plug`. 20 s.
   {"id": ID of the machine, "disk": DISK}  ->  null */
#define VMAN_OP_ATTACH_DISK "attach-disk"
/* Takes a disk from a running machine. "waiting" if the guest was asked and has not let go within
   the backend's own wait: its image is still in use. `refused` if the guest says that it will not.
   Needs the capability `hot_plug`. 20 s.
   {"id": ID of the machine, "disk": ID, "path": PATH or null}  ->  "done" or "waiting" */
#define VMAN_OP_DETACH_DISK "detach-disk"
/* Makes a disk of a running machine larger; of this size already is a success, a smaller one
   `invalid`. Needs the capability `hot_plug`. 20 s.
   {"id": ID of the machine, "disk": ID, "virtual_size": SIZE}  ->  null */
#define VMAN_OP_RESIZE_DISK "resize-disk"
/* Makes an image larger that no machine has open; of this size already is a success, a smaller one
   `invalid`. Needs the capability `resize`. 60 s.
   {"path": PATH, "format": FORMAT, "virtual_size": SIZE}  ->  null */
#define VMAN_OP_RESIZE_IMAGE "resize-image"

/* ---- ERRORS ---------------------------------------------------------------------------------

   {"code": "...", "message": "..."}: the code is for the host, the message for people: what
   failed, on what, why, and what to do. The host cuts a message at 8 KiB. A code that it does not
   know is taken for VMAN_ERROR_OTHER. */

/* The request is not one this backend can carry out; repeating it is in vain. */
#define VMAN_ERROR_INVALID "invalid"
/* What was named is not there. */
#define VMAN_ERROR_NOT_FOUND "not-found"
/* Something else is there already. */
#define VMAN_ERROR_CONFLICT "conflict"
/* The operation's name is not known to this backend. */
#define VMAN_ERROR_UNSUPPORTED "unsupported"
/* A machine or a program did not answer in time, or the operation was cancelled. */
#define VMAN_ERROR_TIMEOUT "timeout"
/* The guest was asked and said no. */
#define VMAN_ERROR_REFUSED "refused"
/* The hypervisor or the host refused. */
#define VMAN_ERROR_FAILED "failed"
/* The verb has left the instance in a state that nobody knows: the host makes a new instance. */
#define VMAN_ERROR_PANICKED "panicked"
/* The plugin broke the contract. */
#define VMAN_ERROR_BROKEN "broken"
/* The process that the plugin ran in has ended. Only the host says so. */
#define VMAN_ERROR_BACKEND_CRASHED "backend-crashed"
/* None of these. */
#define VMAN_ERROR_OTHER "other"

/* ---- EVENTS ---------------------------------------------------------------------------------

   {"event": "...", ...} for `vman_host.emit_event`. One that the host does not know makes it look
   for itself. */

/* The guest's run state changed.
   {"event": "machine-changed", "id": ID, "run_state": STATE} */
#define VMAN_EVENT_MACHINE_CHANGED "machine-changed"
/* The machine is no more.
   {"event": "machine-ended", "id": ID, "reason": "..."} */
#define VMAN_EVENT_MACHINE_ENDED "machine-ended"
/* The guest has let go of a disk that it was asked for, and its image is closed.
   {"event": "disk-detached", "id": ID of the machine, "disk": ID} */
#define VMAN_EVENT_DISK_DETACHED "disk-detached"

#ifdef __cplusplus
}
#endif

#endif
