/*
 * The verbs of machines: what each one means for a process. The guest is a program that sleeps, its
 * power button SIGTERM. How processes are found and held is in process.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "verbs.h"

/* How long a verb waits for a process to end. Less than the host waits for the verb, so that the
   verb itself can say what it waited for. */
#define QUIT_WAIT_MS 25000
#define KILL_WAIT_MS 8000

static bool id_of(struct call *call, struct json object, char id[ID_SIZE])
{
    char *text = json_string(json_member(object, "id"));
    bool good = text && is_id(text);
    if (good)
        memcpy(id, text, ID_SIZE);
    else
        fail(call, VMAN_ERROR_INVALID, "`id` is not a UUID in lower case");
    free(text);
    return good;
}

/* The folder of the machines as the kernel knows it, to be freed; null where it failed. Two
   daemons that write it in two ways thus mean the same machines. */
static char *real_folder(struct call *call)
{
    char *folder = realpath(call->machines_dir, NULL);
    if (!folder)
        fail(call, VMAN_ERROR_FAILED, "the machines folder %s: %s", call->machines_dir,
             strerror(errno));
    return folder;
}

static bool find(struct call *call, const char *folder, const char *id, struct machine **found,
                 size_t *count)
{
    int error = machines_find(folder, id, found, count);
    if (error)
        fail(call, VMAN_ERROR_FAILED, "the host's processes cannot be looked at: %s",
             strerror(error));
    return !error;
}

static void fail_gone(struct call *call, const char *id)
{
    fail(call, VMAN_ERROR_NOT_FOUND, "the machine %s does not run: no process of it is there", id);
}

static void add_machine(struct text *text, const struct machine *machine)
{
    text_add(text,
             "{\"id\": \"%s\", \"process\": {\"pid\": %ld, \"start_time\": %" PRIu64
             ", \"boot_id\": \"%s\"}}",
             machine->id, (long)machine->pid, machine->start_time, machine->boot_id);
}

/* A process has no control channel that could fail: whoever sees it knows what it does. Its disks
   are left out: not known. */
static void add_sighting(struct text *text, const struct machine *machine)
{
    bool stopped = machine->state == 'T' || machine->state == 't';
    text_add(text, "{\"machine\": ");
    add_machine(text, machine);
    text_add(text, ", \"control\": \"connected\", \"run_state\": \"%s\", \"age_ms\": 0}",
             stopped ? "paused" : "running");
}

void probe(struct call *call)
{
    struct text reason = {0};
    int held = process_can_be_held();
    bool usable = access(call->program, X_OK) == 0 && !held;
    if (usable)
        text_add(&reason, "%s can be executed, and processes can be held", call->program);
    else if (held)
        text_add(&reason, "pidfd_open(2) fails: %s", strerror(held));
    else
        text_add(&reason, "%s, which machines are to run, cannot be executed: %s", call->program,
                 strerror(errno));
    text_add(&call->result, "{\"usable\": %s, \"reason\": ", usable ? "true" : "false");
    text_add_string(&call->result, reason.failed ? "no memory" : reason.at);
    text_add(&call->result, ", \"notes\": [\"Machines are plain processes: they have no processors,"
                            " memory, disks or network of their own.\"]}");
    text_free(&reason);
}

/* The directory that the host names must be the one the machine is later found by. */
static bool has_its_directory(struct call *call, const char *id)
{
    char expected[PATH_MAX];
    snprintf(expected, sizeof expected, "%s/%s", call->machines_dir, id);
    char *directory = string_param(call, "directory");
    bool is = directory && strcmp(directory, expected) == 0;
    if (directory && !is)
        fail(call, VMAN_ERROR_INVALID, "the directory of machine %s is %s; it must be %s", id,
             directory, expected);
    free(directory);
    return is;
}

void launch(struct call *call)
{
    char id[ID_SIZE];
    struct machine started, *found = NULL;
    size_t count;
    char *folder = NULL;
    if (!id_of(call, call->params, id) || !has_its_directory(call, id) ||
        !(folder = real_folder(call)) || !find(call, folder, id, &found, &count)) {
        free(folder);
        return;
    }
    if (count > 0) {
        /* The answer to an earlier launch was lost. */
        add_machine(&call->result, &found[0]);
    } else {
        int error = machine_start(folder, id, call->program, &started);
        if (error) {
            fail(call, VMAN_ERROR_FAILED, "the machine %s cannot be started with %s in %s/%s: %s",
                 id, call->program, folder, id, strerror(error));
        } else {
            log_line(call, VMAN_LOG_DEBUG, "machine %s runs as process %ld", id, (long)started.pid);
            add_machine(&call->result, &started);
        }
    }
    free(found);
    free(folder);
}

void reattach(struct call *call)
{
    char id[ID_SIZE];
    uint64_t pid, start_time;
    struct json process = json_member(call->params, "process");
    char *boot_id = json_string(json_member(process, "boot_id"));
    char *folder = NULL;
    struct machine *found = NULL;
    size_t count = 0, i = 0;
    if (!json_number(json_member(process, "pid"), &pid) || !boot_id ||
        !json_number(json_member(process, "start_time"), &start_time))
        fail(call, VMAN_ERROR_INVALID, "`process` does not name a process");
    else if (id_of(call, call->params, id) && (folder = real_folder(call)) &&
             find(call, folder, id, &found, &count)) {
        while (i < count && ((uint64_t)found[i].pid != pid || found[i].start_time != start_time ||
                             strcmp(found[i].boot_id, boot_id) != 0))
            i++;
        if (i < count)
            add_sighting(&call->result, &found[i]);
        else
            fail_gone(call, id);
    }
    free(found);
    free(folder);
    free(boot_id);
}

/* Signals one process of a machine and waits for its end, or does not wait where `wait_ms` is 0.
   True if there was one to signal. */
static bool signal_one(struct call *call, const char *folder, const struct machine *machine,
                       int signal, int wait_ms)
{
    int pidfd = -1, error = machine_hold(folder, machine, &pidfd);
    if (error == ESRCH)
        return false;
    if (!error)
        error = process_signal(pidfd, signal);
    if (error) {
        fail(call, VMAN_ERROR_FAILED, "the process %ld of machine %s cannot be signalled: %s",
             (long)machine->pid, machine->id, strerror(error));
    } else if (wait_ms > 0) {
        enum ending ending = process_wait(pidfd, call->cancelled, wait_ms);
        if (ending == ENDED)
            tell_ended(call, machine->id, "it was asked to end");
        else
            fail(call, VMAN_ERROR_TIMEOUT, "the process %ld of machine %s has signal %d, and %s",
                 (long)machine->pid, machine->id, signal,
                 ending == CANCELLED ? "nobody waits for its end any longer" : "does not end");
    }
    if (pidfd >= 0)
        close(pidfd);
    return true;
}

/* All processes of the machine, should there be two. False if there is none, or where it failed. */
static bool signal_machine(struct call *call, int signal, int wait_ms, char id[ID_SIZE])
{
    struct machine *found = NULL;
    size_t count = 0, signalled = 0;
    char *folder = id_of(call, call->params, id) ? real_folder(call) : NULL;
    if (folder && find(call, folder, id, &found, &count))
        for (size_t i = 0; i < count; i++)
            signalled += signal_one(call, folder, &found[i], signal, wait_ms);
    free(found);
    free(folder);
    return signalled > 0 && !call->code;
}

void power_button(struct call *call)
{
    char id[ID_SIZE];
    if (!signal_machine(call, SIGTERM, 0, id) && !call->code)
        fail_gone(call, id);
}

void quit(struct call *call)
{
    char id[ID_SIZE];
    signal_machine(call, SIGTERM, QUIT_WAIT_MS, id);
}

void kill_machine(struct call *call)
{
    char id[ID_SIZE];
    signal_machine(call, SIGKILL, KILL_WAIT_MS, id);
}

void survey(struct call *call)
{
    struct machine *found = NULL;
    size_t count = 0;
    char *folder = real_folder(call);
    if (folder && find(call, folder, NULL, &found, &count)) {
        text_add(&call->result, "{\"machines\": [");
        for (size_t i = 0; i < count; i++) {
            text_add(&call->result, "%s", i > 0 ? ", " : "");
            add_sighting(&call->result, &found[i]);
        }
        text_add(&call->result, "]}");
    }
    free(found);
    free(folder);
}

void sight(struct call *call)
{
    char id[ID_SIZE];
    struct machine *found = NULL;
    size_t count = 0;
    char *folder = id_of(call, call->params, id) ? real_folder(call) : NULL;
    if (folder && find(call, folder, id, &found, &count) && count > 0)
        add_sighting(&call->result, &found[0]);
    free(found);
    free(folder);
}
