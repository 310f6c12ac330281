/*
 * The border to the host: the plugin's table, its instances, and their operations. Each operation
 * has a thread of its own, which runs its verb and answers once; there are 256 at most, and none
 * computes. What the verbs do is told in verbs.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "verbs.h"

#define NAME "example-c"
#define DEFAULT_PROGRAM "/bin/sleep"

/* What operations share; it lives until `destroy` and until the last of them has ended. */
struct instance {
    const struct vman_host *host;
    uint64_t number;
    char *machines_dir;
    char *program;

    pthread_mutex_t lock;
    /* All that follows is behind the lock. */
    /* An operation has ended, or was told to. */
    pthread_cond_t changed;
    /* In the order in which they came. */
    struct operation *running;
    bool destroyed;
};

struct operation {
    struct operation *next;
    struct instance *instance;
    uint64_t op;
    /* The request, and what is in it. */
    uint8_t *bytes;
    struct json request;
    /* The machine or image it works on; null for one that waits for neither. */
    char *subject;
    /* Can be read from once the operation was told to end. */
    int cancelled;
    bool told;
};

static const struct {
    const char *name;
    verb *verb;
} verbs[] = {
    {VMAN_OP_PROBE, probe},
    {VMAN_OP_LAUNCH, launch},
    {VMAN_OP_REATTACH, reattach},
    {VMAN_OP_POWER_BUTTON, power_button},
    {VMAN_OP_QUIT, quit},
    {VMAN_OP_KILL, kill_machine},
    {VMAN_OP_SURVEY, survey},
    {VMAN_OP_SIGHT, sight},
    {VMAN_OP_CREATE_IMAGE, create_image},
    {VMAN_OP_INSPECT_IMAGE, inspect_image},
    {VMAN_OP_RESIZE_IMAGE, resize_image},
    {VMAN_OP_DELETE_IMAGE, delete_image},
};

/* ---- What verbs say ------------------------------------------------------------------------ */

static struct vman_buf lend(const char *text)
{
    return (struct vman_buf){(const uint8_t *)text, strlen(text)};
}

/* Adds as `vprintf` prints. */
static void add_all(struct text *text, const char *format, va_list arguments)
{
    char *printed = NULL;
    if (vasprintf(&printed, format, arguments) < 0)
        printed = NULL;
    text_add(text, "%s", printed ? printed : "there is no memory to say it");
    free(printed);
}

void add_error(struct text *text, const char *code, const char *message)
{
    text_add(text, "{\"code\": \"%s\", \"message\": ", code);
    text_add_string(text, message);
    text_add(text, "}");
}

void fail(struct call *call, const char *code, const char *format, ...)
{
    if (call->code)
        return;
    va_list arguments;
    va_start(arguments, format);
    call->code = code;
    add_all(&call->message, format, arguments);
    va_end(arguments);
}

char *string_param(struct call *call, const char *name)
{
    char *text = json_string(json_member(call->params, name));
    if (!text)
        fail(call, VMAN_ERROR_INVALID, "`%s` is not a string", name);
    return text;
}

void log_line(struct call *call, uint32_t level, const char *format, ...)
{
    struct text message = {0}, line = {0};
    va_list arguments;
    va_start(arguments, format);
    add_all(&message, format, arguments);
    va_end(arguments);
    text_add(&line, "{\"message\": ");
    text_add_string(&line, message.failed ? "" : message.at);
    text_add(&line, "}");
    if (!line.failed)
        call->host->log(call->instance, level, lend(line.at));
    text_free(&message);
    text_free(&line);
}

void tell_ended(struct call *call, const char *id, const char *reason)
{
    struct text event = {0};
    text_add(&event, "{\"event\": \"" VMAN_EVENT_MACHINE_ENDED "\", \"id\": \"%s\", \"reason\": ",
             id);
    text_add_string(&event, reason);
    text_add(&event, "}");
    /* A hint: whoever needs the truth surveys. */
    if (!event.failed)
        call->host->emit_event(call->instance, lend(event.at));
    text_free(&event);
}

/* ---- Operations ---------------------------------------------------------------------------- */

/* The one answer of an operation. */
static void answer(const struct instance *instance, uint64_t op, struct call *call)
{
    struct text error = {0};
    if (!call->code && call->result.failed)
        fail(call, VMAN_ERROR_FAILED, "%s", strerror(ENOMEM));
    if (call->code)
        add_error(&error, call->code, call->message.failed ? "" : call->message.at);
    if (!call->code)
        instance->host->complete(instance->number, op, VMAN_STATUS_OK,
                                 lend(call->result.len > 0 ? call->result.at : "null"));
    else if (!error.failed)
        instance->host->complete(instance->number, op, VMAN_STATUS_FAILED, lend(error.at));
    else
        instance->host->complete(
            instance->number, op, VMAN_STATUS_FAILED,
            lend("{\"code\": \"" VMAN_ERROR_FAILED "\", \"message\": \"no memory\"}"));
    text_free(&error);
    text_free(&call->result);
    text_free(&call->message);
}

static void operation_free(struct operation *operation)
{
    if (operation->cancelled >= 0)
        close(operation->cancelled);
    free(operation->subject);
    free(operation->bytes);
    free(operation);
}

static void instance_free(struct instance *instance)
{
    pthread_cond_destroy(&instance->changed);
    pthread_mutex_destroy(&instance->lock);
    free(instance->machines_dir);
    free(instance->program);
    free(instance);
}

/* Does an earlier operation work on the same? The lock is held. */
static bool must_wait(const struct operation *operation)
{
    const struct operation *earlier = operation->instance->running;
    for (; operation->subject && earlier != operation; earlier = earlier->next)
        if (earlier->subject && strcmp(earlier->subject, operation->subject) == 0)
            return true;
    return false;
}

static void begin(struct operation *operation)
{
    struct instance *instance = operation->instance;
    struct operation **last = &instance->running;
    pthread_mutex_lock(&instance->lock);
    while (*last)
        last = &(*last)->next;
    *last = operation;
    pthread_mutex_unlock(&instance->lock);
}

/* The operation is no more, and neither is its instance if it was the last one. */
static void end(struct operation *operation)
{
    struct instance *instance = operation->instance;
    struct operation **at = &instance->running;
    pthread_mutex_lock(&instance->lock);
    while (*at != operation)
        at = &(*at)->next;
    *at = operation->next;
    bool is_last = instance->destroyed && !instance->running;
    pthread_cond_broadcast(&instance->changed);
    pthread_mutex_unlock(&instance->lock);
    operation_free(operation);
    if (is_last)
        instance_free(instance);
}

/* The lock is held. */
static void tell_to_end(struct operation *operation)
{
    uint64_t one = 1;
    operation->told = true;
    /* It cannot be full: nobody else writes to it. */
    ssize_t written = write(operation->cancelled, &one, sizeof one);
    (void)written;
    pthread_cond_broadcast(&operation->instance->changed);
}

static void run_verb(const struct operation *operation, struct call *call)
{
    struct json name = json_member(operation->request, "op");
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (json_is(name, verbs[i].name)) {
            verbs[i].verb(call);
            return;
        }
    }
    char *unknown = json_string(name);
    if (unknown)
        fail(call, VMAN_ERROR_UNSUPPORTED, NAME ": there is no operation `%s`", unknown);
    else
        fail(call, VMAN_ERROR_INVALID, NAME ": the request names no operation");
    free(unknown);
}

static void *run(void *argument)
{
    struct operation *operation = argument;
    struct instance *instance = operation->instance;
    struct call call = {
        .host = instance->host,
        .instance = instance->number,
        .machines_dir = instance->machines_dir,
        .program = instance->program,
        .params = json_member(operation->request, "params"),
        .cancelled = operation->cancelled,
    };
    pthread_mutex_lock(&instance->lock);
    /* One that was cancelled ends soon; then this one may begin. */
    while (must_wait(operation) && !operation->told)
        pthread_cond_wait(&instance->changed, &instance->lock);
    bool told = operation->told;
    pthread_mutex_unlock(&instance->lock);
    if (told)
        fail(&call, VMAN_ERROR_TIMEOUT, NAME ": the operation was cancelled before it began");
    else
        run_verb(operation, &call);
    answer(instance, operation->op, &call);
    end(operation);
    return NULL;
}

/* The machine or image an operation works on. `sight` waits for neither. */
static char *subject_of(struct json request)
{
    struct json params = json_member(request, "params");
    if (json_is(json_member(request, "op"), VMAN_OP_SIGHT))
        return NULL;
    char *id = json_string(json_member(params, "id"));
    return id ? id : json_string(json_member(params, "path"));
}

/* Null where there is no memory for it, or no descriptor. */
static struct operation *operation_new(struct instance *instance, uint64_t op,
                                       struct vman_buf request)
{
    struct operation *operation = calloc(1, sizeof *operation);
    if (!operation)
        return NULL;
    operation->instance = instance;
    operation->op = op;
    operation->bytes = malloc(request.len + 1);
    operation->cancelled = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!operation->bytes || operation->cancelled < 0) {
        operation_free(operation);
        return NULL;
    }
    /* The host's buffer is gone when `submit` returns. */
    if (request.len > 0)
        memcpy(operation->bytes, request.ptr, request.len);
    return operation;
}

static int32_t plugin_submit(void *made, uint64_t op, struct vman_buf request)
{
    struct instance *instance = made;
    struct call refused = {.host = instance->host, .instance = instance->number};
    struct operation *operation = operation_new(instance, op, request);
    if (!operation) {
        fail(&refused, VMAN_ERROR_FAILED, NAME ": no memory or descriptor for an operation");
        answer(instance, op, &refused);
        return 0;
    }
    if (!json_parse(operation->bytes, request.len, &operation->request)) {
        fail(&refused, VMAN_ERROR_INVALID, NAME ": the request does not parse");
        answer(instance, op, &refused);
        operation_free(operation);
        return 0;
    }
    operation->subject = subject_of(operation->request);
    begin(operation);
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, operation);
    if (error) {
        fail(&refused, VMAN_ERROR_FAILED, NAME ": no thread for an operation: %s", strerror(error));
        answer(instance, op, &refused);
        end(operation);
    } else {
        pthread_detach(thread);
    }
    return 0;
}

static void plugin_cancel(void *made, uint64_t op)
{
    struct instance *instance = made;
    pthread_mutex_lock(&instance->lock);
    for (struct operation *one = instance->running; one; one = one->next)
        if (one->op == op)
            tell_to_end(one);
    pthread_mutex_unlock(&instance->lock);
}

/* ---- Instances ----------------------------------------------------------------------------- */

/* The error of the last `create` of this thread: the host reads it until it calls again. */
static _Thread_local struct text create_error;

static void *refuse(struct instance *instance, struct vman_buf *error, const char *code,
                    const char *message)
{
    text_free(&create_error);
    add_error(&create_error, code, message);
    if (error && !create_error.failed)
        *error = lend(create_error.at);
    if (instance)
        instance_free(instance);
    return NULL;
}

/* Null, or what is wrong with the settings. */
static const char *read_settings(struct instance *instance, struct json settings)
{
    const char *at = NULL;
    struct json key, value;
    while (json_next(settings, &at, &key, &value)) {
        if (!json_is(key, "program"))
            return "[backends." NAME "] has one key, `program`, and no other";
        free(instance->program);
        instance->program = json_string(value);
        if (!instance->program || instance->program[0] != '/')
            return "[backends." NAME "] program: write the absolute path of a program that takes "
                   "what `sleep` takes";
    }
    if (!instance->program)
        instance->program = strdup(DEFAULT_PROGRAM);
    return instance->program ? NULL : "no memory";
}

static void *plugin_create(const struct vman_host *host, uint64_t number, struct vman_buf config,
                           struct vman_buf *error)
{
    struct json read;
    if (!host || host->size < VMAN_HOST_TABLE_1_0_SIZE)
        return refuse(NULL, error, VMAN_ERROR_BROKEN, NAME ": the host's table is too small");
    struct instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return refuse(NULL, error, VMAN_ERROR_FAILED, NAME ": no memory");
    instance->host = host;
    instance->number = number;
    pthread_mutex_init(&instance->lock, NULL);
    pthread_cond_init(&instance->changed, NULL);
    if (!json_parse(config.ptr, config.len, &read))
        return refuse(instance, error, VMAN_ERROR_INVALID, NAME ": its settings do not parse");
    instance->machines_dir = json_string(json_member(read, "machines_dir"));
    if (!instance->machines_dir)
        return refuse(instance, error, VMAN_ERROR_INVALID, NAME ": `machines_dir` is no string");
    const char *wrong = read_settings(instance, json_member(read, "settings"));
    if (wrong)
        return refuse(instance, error, VMAN_ERROR_INVALID, wrong);
    return instance;
}

/* Waits for nobody: what is under way is told to end, and the last of it frees the instance. */
static void plugin_destroy(void *made)
{
    struct instance *instance = made;
    pthread_mutex_lock(&instance->lock);
    instance->destroyed = true;
    for (struct operation *one = instance->running; one; one = one->next)
        tell_to_end(one);
    bool is_idle = !instance->running;
    pthread_mutex_unlock(&instance->lock);
    if (is_idle)
        instance_free(instance);
}

static const char manifest[] =
    "{\"name\": \"" NAME "\", \"version\": \"0.1.0\","
    " \"description\": \"Runs each machine as a plain process; no guest runs.\","
    " \"capabilities\": {\"processes\": true, \"power_button\": true,"
    " \"image_formats\": [\"raw\"], \"resize\": true}}";

static const struct vman_plugin plugin = {
    .magic = VMAN_MAGIC,
    .size = sizeof plugin,
    .abi_major = VMAN_ABI_MAJOR,
    .abi_minor = VMAN_ABI_MINOR,
    .manifest = {(const uint8_t *)manifest, sizeof manifest - 1},
    .create = plugin_create,
    .submit = plugin_submit,
    .cancel = plugin_cancel,
    .destroy = plugin_destroy,
};

const struct vman_plugin *vman_plugin_entry(void)
{
    return &plugin;
}
