/* Pages that need nothing but themselves: style, escaping, charts drawn as SVG. */
#ifndef CLI_HTML_H
#define CLI_HTML_H

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>

/* Text with what HTML would read as markup replaced, and control characters made visible. */
void html_esc(FILE *f, const char *s);
void html_escn(FILE *f, const char *s, size_t n);
void html_begin(FILE *f, const char *title, const char *heading, const char *sub);
/* The data as JSON in a script element, then the end of the page. */
void html_end(FILE *f, struct json_object *data);
void html_card(FILE *f, const char *value, const char *what);
/* 1234567 as 1.23 M. */
const char *html_count(double n, char buf[24]);
/* 1234567 as 1,234,567. */
const char *html_digits(uint64_t n, char buf[32]);

#define HTML_SERIES 8

struct html_bar {
    const char *label;
    double value;
    const char *text; /* shown beside the bar; NULL: the value as a count */
    unsigned color;   /* below HTML_SERIES */
};
/* Horizontal bars, one row each. */
void html_bars(FILE *f, const char *title, const struct html_bar *b, unsigned n);
/* One bar of parts that make a whole, with a legend. */
void html_split(FILE *f, const char *title, const struct html_bar *b, unsigned n);

struct html_area {
    const char *name[HTML_SERIES];
    unsigned series; /* stacked; at least 1 */
    unsigned n;      /* intervals */
    const double *t; /* n + 1 bounds of intervals, seconds */
    const double *y; /* y[i * series + k]: height in interval i */
    const char *unit;
};
void html_areas(FILE *f, const char *title, const struct html_area *a);

#endif
