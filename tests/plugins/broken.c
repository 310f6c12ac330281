/*
 * Plugins that are broken in one way each, which -DFAULT=NAME chooses; README.md says what the host
 * must make of each. But for that one way it is a backend without machines: it is usable, surveys
 * to nothing, and answers all else as `unsupported`.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vman_backend.h"

/* Refused as a file. */
#define WRONG_MAGIC 1
#define WRONG_MAJOR 2
#define TRUNCATED_TABLE 3
#define MISSING_FUNCTION 4
#define NULL_TABLE 5
#define NULL_MANIFEST 6
#define MANIFEST_NOT_JSON 7
#define MANIFEST_BAD_NAME 8
#define NO_ENTRY 9
#define ABORTS_AT_LOAD 10
#define EXITS_AT_LOAD 11
#define HANGS_AT_LOAD 12
/* Makes no instance. */
#define CREATE_BLOCKS 20
#define CREATE_FAILS_SILENTLY 21
#define CREATE_CRASHES 22
/* Its operations do not end as they must. */
#define SUBMIT_BLOCKS 30
#define SUBMIT_REFUSES 31
#define SUBMIT_CRASHES 32
#define NEVER_ANSWERS 33
#define ANSWERS_LATE 34
#define ANSWERS_GARBAGE 35
#define ANSWERS_TOO_LONG 36
/* Broken in what the host can make good. */
#define ANSWERS_WITH_A_STRANGE_STATUS 40
#define ANSWERS_TWICE 41
#define ANSWERS_STRANGERS 42
#define ANSWERS_AFTER_DESTROY 43
#define FLOODS_EVENTS 44
#define FLOODS_THE_LOG 45
/* Not broken: of a later minor, with fields that this host does not know. */
#define LATER_ABI 50

#ifndef FAULT
#error "-DFAULT=NAME says what is to be broken"
#endif
#ifndef NAME
#error "-DNAME=\"...\" is the name in the manifest"
#endif

/* More than the 1024 events that the host keeps. */
#define FLOOD 20000
/* One MiB more than a message may have. */
#define TOO_LONG (17u << 20)
/* Longer than the host waits after it has cancelled. */
#define LATE_SECONDS 3

#define PROBE "{\"usable\": true, \"reason\": \"it runs nothing\", \"notes\": []}"
#define SURVEY "{\"machines\": []}"

struct instance {
    const struct vman_host *host;
    uint64_t number;
};

static struct vman_buf lend(const char *text)
{
    return (struct vman_buf){(const uint8_t *)text, strlen(text)};
}

static void complete(const struct instance *of, uint64_t op, int32_t status, const char *json)
{
    of->host->complete(of->number, op, status, lend(json));
}

static void answer(const struct instance *of, uint64_t op, struct vman_buf request)
{
    if (memmem(request.ptr, request.len, "\"" VMAN_OP_PROBE "\"", strlen(VMAN_OP_PROBE) + 2))
        complete(of, op, VMAN_STATUS_OK, PROBE);
    else if (memmem(request.ptr, request.len, "\"" VMAN_OP_SURVEY "\"", strlen(VMAN_OP_SURVEY) + 2))
        complete(of, op, VMAN_STATUS_OK, SURVEY);
    else
        complete(of, op, VMAN_STATUS_FAILED,
                 "{\"code\": \"" VMAN_ERROR_UNSUPPORTED "\", \"message\": \"it has no such verb\"}");
}

/* ---- What may go wrong in an operation ------------------------------------------------------ */

#if FAULT == ANSWERS_LATE
struct late {
    struct instance of;
    uint64_t op;
};

static void *answer_late(void *argument)
{
    struct late *late = argument;
    sleep(LATE_SECONDS);
    complete(&late->of, late->op, VMAN_STATUS_OK, PROBE);
    free(late);
    return NULL;
}
#endif

static int32_t plugin_submit(void *made, uint64_t op, struct vman_buf request)
{
    const struct instance *of = made;
    (void)of;
    (void)op;
    (void)request;
#if FAULT == SUBMIT_BLOCKS
    for (;;)
        pause();
#elif FAULT == SUBMIT_REFUSES
    return 7;
#elif FAULT == SUBMIT_CRASHES
    *(volatile int *)NULL = 1;
#elif FAULT == NEVER_ANSWERS || FAULT == ANSWERS_LATE
    return 0;
#elif FAULT == ANSWERS_GARBAGE
    complete(of, op, VMAN_STATUS_OK, "{\"usable\": tru\xff");
    return 0;
#elif FAULT == ANSWERS_TOO_LONG
    uint8_t *bytes = malloc(TOO_LONG);
    if (!bytes)
        return 1;
    memset(bytes, ' ', TOO_LONG);
    of->host->complete(of->number, op, VMAN_STATUS_OK, (struct vman_buf){bytes, TOO_LONG});
    free(bytes);
    return 0;
#elif FAULT == ANSWERS_WITH_A_STRANGE_STATUS
    complete(of, op, -77, "{\"code\": \"no-such-code\", \"message\": \"it is strange\"}");
    return 0;
#elif FAULT == ANSWERS_STRANGERS
    complete(of, op + 1000, VMAN_STATUS_OK, "null");
    complete(of, UINT64_MAX, VMAN_STATUS_OK, "null");
    of->host->complete(of->number + 1000, op, VMAN_STATUS_OK, lend("null"));
#endif
    answer(of, op, request);
#if FAULT == ANSWERS_TWICE
    answer(of, op, request);
#endif
    return 0;
}

static void plugin_cancel(void *made, uint64_t op)
{
    (void)made;
    (void)op;
#if FAULT == ANSWERS_LATE
    struct late *late = malloc(sizeof *late);
    pthread_t thread;
    if (!late)
        return;
    *late = (struct late){*(struct instance *)made, op};
    if (pthread_create(&thread, NULL, answer_late, late) == 0)
        pthread_detach(thread);
    else
        free(late);
#endif
}

/* ---- Instances ------------------------------------------------------------------------------ */

#if FAULT == FLOODS_EVENTS || FAULT == FLOODS_THE_LOG
static void flood(const struct instance *of)
{
    for (int i = 0; i < FLOOD; i++) {
#if FAULT == FLOODS_EVENTS
        of->host->emit_event(of->number,
                             lend("{\"event\": \"" VMAN_EVENT_MACHINE_ENDED "\", \"id\": "
                                  "\"00000000-0000-4000-8000-000000000000\", \"reason\": \"\"}"));
        of->host->emit_event(of->number, lend("{\"event\": "));
#else
        of->host->log(of->number, VMAN_LOG_DEBUG, lend("{\"message\": \"it has much to say\"}"));
        of->host->log(of->number, 99, lend("{\"message\": "));
#endif
    }
}
#endif

#if FAULT == ANSWERS_AFTER_DESTROY
static void *answer_after(void *argument)
{
    struct instance *of = argument;
    sleep(1);
    for (uint64_t op = 0; op < 1000; op++)
        complete(of, op, VMAN_STATUS_OK, PROBE);
    of->host->emit_event(of->number, lend("{\"event\": \"of-nobody\"}"));
    free(of);
    return NULL;
}
#endif

static void *plugin_create(const struct vman_host *host, uint64_t number, struct vman_buf config,
                           struct vman_buf *error)
{
    (void)config;
    (void)error;
#if FAULT == CREATE_BLOCKS
    for (;;)
        pause();
#elif FAULT == CREATE_FAILS_SILENTLY
    return NULL;
#elif FAULT == CREATE_CRASHES
    abort();
#endif
    struct instance *made = malloc(sizeof *made);
    if (!made)
        return NULL;
    *made = (struct instance){host, number};
#if FAULT == FLOODS_EVENTS || FAULT == FLOODS_THE_LOG
    flood(made);
#endif
    return made;
}

static void plugin_destroy(void *made)
{
#if FAULT == ANSWERS_AFTER_DESTROY
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_after, made) == 0) {
        pthread_detach(thread);
        return;
    }
#endif
    free(made);
}

/* ---- The table ------------------------------------------------------------------------------ */

#if FAULT == MANIFEST_NOT_JSON
static const char manifest[] = "name = \"" NAME "\"";
#elif FAULT == MANIFEST_BAD_NAME
static const char manifest[] = "{\"name\": \"No such name\", \"version\": \"0.1.0\","
                               " \"description\": \"\", \"capabilities\": {}}";
#else
static const char manifest[] = "{\"name\": \"" NAME "\", \"version\": \"0.1.0\","
                               " \"description\": \"Is broken.\", \"capabilities\": {}}";
#endif

static struct {
    struct vman_plugin known;
    /* What a later host would know of. */
    const void *(*appended)(void);
    uint64_t more[4];
} table = {
    .known = {
#if FAULT == WRONG_MAGIC
        .magic = VMAN_MAGIC + 1,
#else
        .magic = VMAN_MAGIC,
#endif
#if FAULT == TRUNCATED_TABLE
        .size = 24,
#elif FAULT == LATER_ABI
        .size = sizeof table,
#else
        .size = sizeof(struct vman_plugin),
#endif
#if FAULT == WRONG_MAJOR
        .abi_major = VMAN_ABI_MAJOR + 1,
#else
        .abi_major = VMAN_ABI_MAJOR,
#endif
#if FAULT == LATER_ABI
        .abi_minor = 7,
#else
        .abi_minor = VMAN_ABI_MINOR,
#endif
#if FAULT == NULL_MANIFEST
        .manifest = {NULL, sizeof manifest - 1},
#else
        .manifest = {(const uint8_t *)manifest, sizeof manifest - 1},
#endif
        .create = plugin_create,
        .submit = plugin_submit,
#if FAULT != MISSING_FUNCTION
        .cancel = plugin_cancel,
#endif
        .destroy = plugin_destroy,
    },
    .more = {1, 2, 3, 4},
};

#if FAULT == ABORTS_AT_LOAD || FAULT == EXITS_AT_LOAD || FAULT == HANGS_AT_LOAD
__attribute__((constructor)) static void at_load(void)
{
#if FAULT == ABORTS_AT_LOAD
    abort();
#elif FAULT == EXITS_AT_LOAD
    _exit(0);
#else
    for (;;)
        pause();
#endif
}
#endif

#if FAULT == NO_ENTRY
#define vman_plugin_entry vman_plugin_entrance
VMAN_EXPORT const struct vman_plugin *vman_plugin_entry(void);
#endif

#if FAULT == TRUNCATED_TABLE
/* At the very end of what can be read: who reads more than the size says crashes. */
static const struct vman_plugin *at_the_edge(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) != 0)
        return NULL;
    return memcpy(pages + page - table.known.size, &table, table.known.size);
}
#endif

const struct vman_plugin *vman_plugin_entry(void)
{
    /* Not all faults use all of it. */
    (void)plugin_cancel;
    (void)table;
#if FAULT == NULL_TABLE
    return NULL;
#elif FAULT == TRUNCATED_TABLE
    return at_the_edge();
#else
    return &table.known;
#endif
}
