/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CUDA_VISIBLE_DEVICES, as measured on driver 580: the list ends at the first entry that names no device; a device
 * named twice makes cuInit fail; the first entry decides whether indices or UUIDs are listed. An index is read as
 * strtol with base 0 reads it ("0x0", "+0", "0a" are 0); a UUID may be cut short where it stays unique, its digits in
 * either case.
 */
#include "sim.h"

#include <string.h>

static int digit_of(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Reads an index at *text as strtol(..., 0) does, without its newer symbol versions. -1: none. */
static long read_index(const char *text) {
    long value = 0;
    int base = 10;
    bool any = false;

    while (*text == ' ' || *text == '\t')
        text++;
    if (*text == '-')
        return -1;
    if (*text == '+')
        text++;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X') && digit_of(text[2]) >= 0) {
        base = 16;
        text += 2;
    } else if (text[0] == '0') {
        base = 8;
    }
    for (int digit; (digit = digit_of(*text)) >= 0 && digit < base; text++) {
        any = true;
        if (value < SIM_GPUS_MAX)
            value = value * base + digit;
    }
    return any ? value : -1;
}

/* Whether the text, up to a comma, is the beginning of the UUID; behind a whole UUID anything may follow. */
static bool uuid_begins(const uint8_t uuid[16], const char *text) {
    unsigned digits = 0;

    for (; *text && *text != ',' && digits < 32; text++) {
        int digit = digit_of(*text);

        if (*text == '-')
            continue;
        if (digit < 0 || digit != (digits % 2 ? uuid[digits / 2] & 15 : uuid[digits / 2] >> 4))
            return false;
        digits++;
    }
    return digits > 0;
}

static long find_uuid(const char *text, const struct visible_device *all, unsigned count) {
    long found = -1;

    for (unsigned i = 0; i < count; i++) {
        if (uuid_begins(all[i].uuid, text)) {
            if (found >= 0)
                return -1; /* names more than one */
            found = (long)i;
        }
    }
    return found;
}

CUresult visible_choose(const char *text, const struct visible_device *all, unsigned count, unsigned *chosen,
                        unsigned *chosen_count) {
    const bool uuids = text && strncmp(text, "GPU-", 4) == 0;

    *chosen_count = 0;
    if (!text) {
        for (unsigned i = 0; i < count; i++)
            chosen[i] = i;
        *chosen_count = count;
        return CUDA_SUCCESS;
    }
    for (const char *entry = text; entry; entry = strchr(entry, ',')) {
        long index;

        if (entry != text)
            entry++;
        if (uuids)
            index = strncmp(entry, "GPU-", 4) == 0 ? find_uuid(entry + 4, all, count) : -1;
        else
            index = read_index(entry);
        if (index < 0 || index >= (long)count)
            break;
        for (unsigned i = 0; i < *chosen_count; i++)
            if (chosen[i] == (unsigned)index)
                return CUDA_ERROR_INVALID_DEVICE;
        chosen[(*chosen_count)++] = (unsigned)index;
    }
    return CUDA_SUCCESS;
}
