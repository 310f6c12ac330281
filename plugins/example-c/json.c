/*
 * The reader checks a message once, from its first byte to its last; whoever walks it later relies
 * on that. See json.h.
 */
#include "json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Messages are flat; whoever nests deeper than this wants the stack. */
#define MAX_DEPTH 32

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && is_space(*at))
        at++;
    return at;
}

/* The value of a hexadecimal digit, -1 of anything else. */
static int hex(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The four digits of an escape; -1 where they are not four, or not digits. */
static long four_digits(const char *at, const char *end)
{
    long value = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex(at[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Where the character ends whose first byte is at `at`, and null where it is not UTF-8. */
static const char *skip_utf8(const char *at, const char *end)
{
    unsigned char first = (unsigned char)*at;
    long code = first;
    int more = 0;
    static const long least[] = {0, 0x80, 0x800, 0x10000};
    if (first >= 0xf0 && first < 0xf8)
        more = 3, code = first & 0x07;
    else if (first >= 0xe0)
        more = 2, code = first & 0x0f;
    else if (first >= 0xc0)
        more = 1, code = first & 0x1f;
    if ((first >= 0x80 && first < 0xc0) || first >= 0xf8 || end - at <= more)
        return NULL;
    for (int i = 1; i <= more; i++) {
        unsigned char next = (unsigned char)at[i];
        if ((next & 0xc0) != 0x80)
            return NULL;
        code = code << 6 | (next & 0x3f);
    }
    bool is_half = code >= 0xd800 && code < 0xe000;
    return code < least[more] || code > 0x10ffff || is_half ? NULL : at + more + 1;
}

/* Decodes what stands at a backslash into `code`, both halves of a pair. */
static const char *skip_escape(const char *at, const char *end, long *code)
{
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (end - at < 2)
        return NULL;
    const char *name = at[1] ? strchr(names, at[1]) : NULL;
    if (name) {
        *code = meant[name - names];
        return at + 2;
    }
    if (at[1] != 'u' || (*code = four_digits(at + 2, end)) < 0)
        return NULL;
    if (*code < 0xd800 || *code >= 0xe000)
        return at + 6;
    if (*code >= 0xdc00 || end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return NULL;
    long low = four_digits(at + 8, end);
    if (low < 0xdc00 || low >= 0xe000)
        return NULL;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return at + 12;
}

static const char *skip_string(const char *at, const char *end)
{
    long code;
    if (at == end || *at++ != '"')
        return NULL;
    while (at && at < end && *at != '"') {
        if ((unsigned char)*at < 0x20)
            return NULL;
        at = *at == '\\' ? skip_escape(at, end, &code) : skip_utf8(at, end);
    }
    return at && at < end ? at + 1 : NULL;
}

static const char *skip_digits(const char *at, const char *end)
{
    const char *first = at;
    while (at < end && is_digit(*at))
        at++;
    return at == first ? NULL : at;
}

static const char *skip_number(const char *at, const char *end)
{
    if (at < end && *at == '-')
        at++;
    if (at < end && *at == '0')
        at++;
    else if (!(at = skip_digits(at, end)))
        return NULL;
    if (at < end && *at == '.' && !(at = skip_digits(at + 1, end)))
        return NULL;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        at = skip_digits(at, end);
    }
    return at;
}

static const char *skip_word(const char *at, const char *end, const char *word)
{
    size_t len = strlen(word);
    return (size_t)(end - at) >= len && memcmp(at, word, len) == 0 ? at + len : NULL;
}

static const char *skip_value(const char *at, const char *end, int depth);

/* An object or an array: what is in it, and its closing bracket. */
static const char *skip_inside(const char *at, const char *end, int depth)
{
    bool object = *at == '{';
    char closing = object ? '}' : ']';
    if (depth == MAX_DEPTH)
        return NULL;
    at = skip_space(at + 1, end);
    if (at < end && *at == closing)
        return at + 1;
    for (;;) {
        if (object) {
            if (!(at = skip_string(at, end)))
                return NULL;
            at = skip_space(at, end);
            if (at == end || *at++ != ':')
                return NULL;
            at = skip_space(at, end);
        }
        if (!(at = skip_value(at, end, depth + 1)))
            return NULL;
        at = skip_space(at, end);
        if (at < end && *at == closing)
            return at + 1;
        if (at == end || *at++ != ',')
            return NULL;
        at = skip_space(at, end);
    }
}

/* Where the value ends that begins at `at`; null where none does. */
static const char *skip_value(const char *at, const char *end, int depth)
{
    if (at == end)
        return NULL;
    switch (*at) {
    case '{':
    case '[':
        return skip_inside(at, end, depth);
    case '"':
        return skip_string(at, end);
    case 't':
        return skip_word(at, end, "true");
    case 'f':
        return skip_word(at, end, "false");
    case 'n':
        return skip_word(at, end, "null");
    default:
        return skip_number(at, end);
    }
}

bool json_parse(const uint8_t *bytes, size_t len, struct json *value)
{
    if (len == 0)
        return false;
    const char *text = (const char *)bytes, *end = text + len;
    value->at = skip_space(text, end);
    value->end = skip_value(value->at, end, 0);
    return value->end && skip_space(value->end, end) == end;
}

bool json_next(struct json object, const char **at, struct json *key, struct json *value)
{
    if (!object.at || *object.at != '{')
        return false;
    const char *begins = skip_space(*at ? *at : object.at + 1, object.end);
    if (*begins == ',')
        begins = skip_space(begins + 1, object.end);
    if (*begins == '}')
        return false;
    *key = (struct json){begins, skip_string(begins, object.end)};
    /* A colon stands between, and space around it. */
    begins = skip_space(skip_space(key->end, object.end) + 1, object.end);
    *value = (struct json){begins, skip_value(begins, object.end, 0)};
    *at = value->end;
    return true;
}

struct json json_member(struct json object, const char *name)
{
    const char *at = NULL;
    struct json key, value;
    while (json_next(object, &at, &key, &value))
        if (json_is(key, name))
            return value;
    return (struct json){NULL, NULL};
}

/* The bytes of one character; there is room for four. */
static char *put_utf8(char *to, long code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

char *json_string(struct json value)
{
    if (!value.at || *value.at != '"')
        return NULL;
    /* No escape is shorter than what it stands for. */
    char *text = malloc((size_t)(value.end - value.at)), *to = text;
    for (const char *at = value.at + 1; text && at < value.end - 1;) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        long code;
        at = skip_escape(at, value.end, &code);
        if (code == 0) {
            free(text);
            return NULL;
        }
        to = put_utf8(to, code);
    }
    if (text)
        *to = '\0';
    return text;
}

bool json_is(struct json value, const char *text)
{
    char *string = json_string(value);
    bool is = string && strcmp(string, text) == 0;
    free(string);
    return is;
}

bool json_number(struct json value, uint64_t *number)
{
    *number = 0;
    if (!value.at || !is_digit(*value.at))
        return false;
    for (const char *at = value.at; at < value.end; at++) {
        if (!is_digit(*at))
            return false;
        unsigned digit = (unsigned)(*at - '0');
        if (*number > (UINT64_MAX - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    return true;
}

/* Room for `more` bytes and the zero that ends them. */
static bool has_room(struct text *text, size_t more)
{
    if (text->failed || text->room - text->len > more)
        return !text->failed;
    size_t room = (text->len + more + 1) * 2;
    char *grown = realloc(text->at, room);
    if (!grown) {
        text->failed = true;
        return false;
    }
    text->at = grown;
    text->room = room;
    return true;
}

void text_add(struct text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int len = vsnprintf(NULL, 0, format, arguments);
    if (len < 0)
        text->failed = true;
    else if (has_room(text, (size_t)len))
        text->len += (size_t)vsnprintf(text->at + text->len, (size_t)len + 1, format, again);
    va_end(again);
    va_end(arguments);
}

void text_add_string(struct text *text, const char *string)
{
    const char *end = string + strlen(string);
    text_add(text, "\"");
    while (string < end) {
        const char *next = skip_utf8(string, end);
        if (!next) {
            /* The name of a file may hold anything; JSON must not. */
            text_add(text, "\\ufffd");
            next = string + 1;
        } else if (*string == '"' || *string == '\\') {
            text_add(text, "\\%c", *string);
        } else if ((unsigned char)*string < 0x20) {
            text_add(text, "\\u%04x", (unsigned)*string);
        } else {
            text_add(text, "%.*s", (int)(next - string), string);
        }
        string = next;
    }
    text_add(text, "\"");
}

void text_free(struct text *text)
{
    free(text->at);
    *text = (struct text){0};
}
