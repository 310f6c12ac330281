/*
 * As much JSON as a backend needs: reads values out of a message, and writes text with strings in
 * it. It keeps no tree: a value is the piece of the message that it stands in. What the messages
 * mean is not known here.
 */
#ifndef EXAMPLE_JSON_H
#define EXAMPLE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A value in a message that `json_parse` has found sound; `at` is null for one that is absent. */
struct json {
    const char *at;
    const char *end;
};

/* Is this one JSON value, whole and in UTF-8, and nothing else? Only then the functions below may
   be asked about it. */
bool json_parse(const uint8_t *bytes, size_t len, struct json *value);

/* The member of an object; absent where `value` is no object or has no such member. */
struct json json_member(struct json value, const char *key);

/* The next member of an object, beginning where `*at` is null; false after the last one. */
bool json_next(struct json object, const char **at, struct json *key, struct json *value);

/* The text of a string, to be freed. Null where `value` is no string, where a zero byte is in it,
   and where there is no memory. */
char *json_string(struct json value);

/* Is this string that text? */
bool json_is(struct json value, const char *text);

/* A whole number that is not negative; false where it is another or none. */
bool json_number(struct json value, uint64_t *number);

/* Text that grows. Once there is no memory for it `failed` is set, and nothing more is added. */
struct text {
    char *at;
    size_t len;
    size_t room;
    bool failed;
};

/* Adds as `printf` prints. */
__attribute__((format(printf, 2, 3))) void text_add(struct text *text, const char *format, ...);

/* Adds a JSON string, quotes included. */
void text_add_string(struct text *text, const char *string);

void text_free(struct text *text);

#endif
