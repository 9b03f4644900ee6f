/* See html.h. Colours come from classes, so that light and dark are one drawing. */
#include <inttypes.h>
#include <string.h>

#include "cli/html.h"

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1c1d20;--dim:#666a73;--line:#dfe1e5;--card:#fff;--head:#f1f2f4;--ok:#1a7f4b;--bad:#b3261e;"
    "--c0:#2b6cb8;--c1:#d9822b;--c2:#2f9e6e;--c3:#b83280;--c4:#7a5fc7;--c5:#5f8a96;--c6:#a8893a;--c7:#9aa0a8}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#e6e7ea;--dim:#9aa0ab;--line:#30343c;--card:#1d2026;--head:#262a31;--ok:#5fd39a;"
    "--bad:#ff8a80;--c0:#5b9be0;--c1:#eda055;--c2:#55c495;--c3:#dd6cae;--c4:#a58cf0;--c5:#86b3bf;--c6:#cfb160;--c7:#7d838c}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:28px 20px 60px;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6em;margin:0 0 4px}h2{font-size:1.15em;margin:34px 0 10px}p{margin:6px 0}.dim{color:var(--dim)}\n"
    "code{font:13px ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}\n"
    ".cards{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}.card{flex:1 1 140px;background:var(--card);border:1px solid var(--line);border-radius:8px;"
    "padding:12px 14px;color:var(--dim)}.card b{display:block;font-size:1.55em;line-height:1.25;color:var(--fg)}\n"
    ".wrap{overflow-x:auto;border:1px solid var(--line);border-radius:8px}table{border-collapse:collapse;width:100%;background:var(--card)}\n"
    "th,td{padding:5px 10px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child td{border-bottom:0}\n"
    "th{background:var(--head);font-weight:600;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    ".ok{color:var(--ok);font-weight:600}.bad{color:var(--bad);font-weight:600}\n"
    ".verdict{border-left:4px solid var(--bad);background:var(--card);padding:10px 14px;border-radius:4px}.verdict.good{border-color:var(--ok)}\n"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;overflow:auto;max-height:420px;font:12.5px/1.45 ui-monospace,monospace}\n"
    "svg{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}\n"
    "svg text{fill:var(--fg);font:12px system-ui,sans-serif}svg text.d{fill:var(--dim)}svg .g{stroke:var(--line);stroke-width:1}\n"
    ".c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}.c6{fill:var(--c6)}.c7{fill:var(--c7)}\n";

void html_escn(FILE *f, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        switch (c) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        case '\'': fputs("&#39;", f); break;
        case '\n':
        case '\t': fputc(c, f); break;
        default:
            if (c < ' ' || c > '~') /* whatever encoding the guest meant */
                fprintf(f, "\\x%02x", c);
            else
                fputc(c, f);
        }
    }
}

void html_esc(FILE *f, const char *s)
{
    html_escn(f, s, strlen(s));
}

void html_begin(FILE *f, const char *title, const char *heading, const char *sub)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>", f);
    html_esc(f, title);
    fprintf(f, "</title>\n<style>\n%s</style></head><body>\n<h1>", style);
    html_esc(f, heading);
    fputs("</h1>\n<p class=\"dim\">", f);
    html_esc(f, sub);
    fputs("</p>\n", f);
}

void html_end(FILE *f, struct json_object *data)
{
    fputs("<p class=\"dim\">The figures of this page are embedded in it as JSON: element <code>data</code>.</p>\n<script type=\"application/json\" id=\"data\">\n", f);
    /* In a script nothing is an escape but the end tag: '<' occurs in JSON only within strings, where it may be spelt so. */
    for (const char *s = json_object_to_json_string_ext(data, JSON_C_TO_STRING_PRETTY); *s; s++) {
        if (*s == '<')
            fputs("\\u003c", f);
        else
            fputc(*s, f);
    }
    fputs("\n</script>\n</body></html>\n", f);
}

void html_card(FILE *f, const char *value, const char *what)
{
    fputs("<div class=\"card\"><b>", f);
    html_esc(f, value);
    fputs("</b>", f);
    html_esc(f, what);
    fputs("</div>\n", f);
}

const char *html_count(double n, char buf[24])
{
    static const char *const unit[] = {"", " k", " M", " G", " T"};
    unsigned u = 0;
    while (n >= 999.5 && u < 4) {
        n /= 1000;
        u++;
    }
    snprintf(buf, 24, n >= 99.95 || (!u && n == (double)(int)n) ? "%.0f%s" : n >= 9.995 ? "%.1f%s" : "%.2f%s", n, unit[u]);
    return buf;
}

const char *html_digits(uint64_t n, char buf[32])
{
    char raw[24];
    int len = snprintf(raw, sizeof(raw), "%" PRIu64, n), o = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            buf[o++] = ',';
        buf[o++] = raw[i];
    }
    buf[o] = 0;
    return buf;
}

static void svg_begin(FILE *f, const char *title, unsigned h)
{
    fprintf(f, "<svg viewBox=\"0 0 1000 %u\" role=\"img\" aria-label=\"", h);
    html_esc(f, title);
    fputs("\">\n", f);
}

void html_bars(FILE *f, const char *title, const struct html_bar *b, unsigned n)
{
    char num[24];
    double max = 0;
    for (unsigned i = 0; i < n; i++)
        max = b[i].value > max ? b[i].value : max;
    svg_begin(f, title, n * 24 + 16);
    for (unsigned i = 0; i < n; i++) {
        unsigned y = 8 + i * 24;
        double w = max > 0 ? 540 * b[i].value / max : 0;
        fprintf(f, "<text x=\"250\" y=\"%u\" text-anchor=\"end\">", y + 16);
        html_esc(f, b[i].label);
        fprintf(f, "</text><rect class=\"c%u\" x=\"260\" y=\"%u\" width=\"%.1f\" height=\"16\" rx=\"2\"/><text class=\"d\" x=\"%.1f\" y=\"%u\">",
                b[i].color % HTML_SERIES, y + 4, w > 0 && w < 1 ? 1 : w, 268 + w, y + 16);
        html_esc(f, b[i].text ? b[i].text : html_count(b[i].value, num));
        fputs("</text>\n", f);
    }
    fputs("</svg>\n", f);
}

/* Legends flow by the width their text is guessed to have. */
static unsigned legend_rows(const char *const text[], const struct html_bar *b, unsigned n, FILE *f, unsigned y0)
{
    unsigned x = 16, row = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned w = 40 + 7 * (unsigned)strlen(text[i]);
        if (x + w > 990 && x > 16) {
            x = 16;
            row++;
        }
        if (f) {
            fprintf(f, "<rect class=\"c%u\" x=\"%u\" y=\"%u\" width=\"11\" height=\"11\" rx=\"2\"/><text x=\"%u\" y=\"%u\">", (b ? b[i].color : i) % HTML_SERIES, x,
                    y0 + row * 20, x + 17, y0 + 10 + row * 20);
            html_esc(f, text[i]);
            fputs("</text>\n", f);
        }
        x += w;
    }
    return row + 1;
}

void html_split(FILE *f, const char *title, const struct html_bar *b, unsigned n)
{
    char text[HTML_SERIES][96];
    const char *p[HTML_SERIES] = {0};
    double sum = 0, x = 16;
    if (n > HTML_SERIES)
        n = HTML_SERIES;
    for (unsigned i = 0; i < n; i++)
        sum += b[i].value;
    for (unsigned i = 0; i < n; i++) {
        snprintf(text[i], sizeof(text[i]), "%s: %s (%.1f%%)", b[i].label, b[i].text, sum > 0 ? 100 * b[i].value / sum : 0.0);
        p[i] = text[i];
    }
    svg_begin(f, title, 64 + 20 * legend_rows(p, b, n, NULL, 0));
    for (unsigned i = 0; i < n; i++) {
        double w = sum > 0 ? 968 * b[i].value / sum : 0;
        fprintf(f, "<rect class=\"c%u\" x=\"%.2f\" y=\"14\" width=\"%.2f\" height=\"28\"><title>", b[i].color % HTML_SERIES, x, w);
        html_esc(f, text[i]);
        fputs("</title></rect>\n", f);
        x += w;
    }
    legend_rows(p, b, n, f, 56);
    fputs("</svg>\n", f);
}

/* The next of 1, 2, 5 times a power of ten. */
static double round_up(double v)
{
    double p = 1;
    if (!(v > 0))
        return 1;
    while (p * 10 <= v)
        p *= 10;
    while (p > v)
        p /= 10;
    return v <= p ? p : v <= 2 * p ? 2 * p : v <= 5 * p ? 5 * p : 10 * p;
}

#define AX 66.0
#define AW 914.0
#define AH 230.0

void html_areas(FILE *f, const char *title, const struct html_area *a)
{
    char num[24];
    double top = 0, t0 = a->t[0], span = a->t[a->n] - t0;
    for (unsigned i = 0; i < a->n; i++) {
        double s = 0;
        for (unsigned k = 0; k < a->series; k++)
            s += a->y[i * a->series + k];
        top = s > top ? s : top;
    }
    top = round_up(top);
    if (!(span > 0))
        span = 1;
    svg_begin(f, title, (unsigned)AH + 62 + 20 * legend_rows(a->name, NULL, a->series, NULL, 0));
    for (unsigned i = 0; i <= 4; i++) {
        double y = 14 + AH - AH * i / 4;
        fprintf(f, "<path class=\"g\" d=\"M%.0f %.1fH%.0f\"/><text class=\"d\" x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", AX, y, AX + AW, AX - 8,
                y + 4, html_count(top * i / 4, num));
    }
    double step = round_up(span / 8);
    for (unsigned i = 0; i <= 16 && step * i <= span * 1.001; i++)
        fprintf(f, "<text class=\"d\" x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.3g s</text>\n", AX + AW * step * i / span, AH + 32, step * i);
    /* Steps: a rate holds for its whole interval. */
    for (unsigned k = 0; k < a->series; k++) {
        fprintf(f, "<path class=\"c%u\" d=\"M%.1f %.1f", k % HTML_SERIES, AX, 14 + AH);
        for (unsigned pass = 0; pass < 2; pass++)
            for (unsigned j = 0; j < a->n; j++) {
                unsigned i = pass ? a->n - 1 - j : j;
                double s = 0;
                for (unsigned m = 0; m < k + !pass; m++)
                    s += a->y[i * a->series + m];
                double y = 14 + AH - AH * s / top, x1 = AX + AW * (a->t[i] - t0) / span, x2 = AX + AW * (a->t[i + 1] - t0) / span;
                fprintf(f, "L%.1f %.1fH%.1f", pass ? x2 : x1, y, pass ? x1 : x2);
            }
        fputs("Z\"><title>", f);
        html_esc(f, a->name[k]);
        fputs("</title></path>\n", f);
    }
    legend_rows(a->name, NULL, a->series, f, (unsigned)AH + 44);
    fputs("</svg>\n<p class=\"dim\">", f);
    html_esc(f, a->unit);
    fputs("</p>\n", f);
}
