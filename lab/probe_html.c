/* ringer probe's report as one page that needs nothing else. */
#include <string.h>

#include "lab/engines.h"
#include "lab/probe_out.h"
#include "x86/decode.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
    "content=\"width=device-width\">\n"
    "<title>ringer probe: Popek and Goldberg on this CPU</title>\n<style>\n"
    ":root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1c1d20;--dim:#666a73;--line:#dfe1e5;--card:#fff;--head:#f1f2f4;"
    "--trap:#1a7f4b;--off:#b3261e;--warn:#9a5b00;--info:#2456b5}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#e6e7ea;--dim:#9aa0ab;--line:#30343c;--card:#1d2026;--"
    "head:#262a31;"
    "--trap:#5fd39a;--off:#ff8a80;--warn:#f0b35a;--info:#8ab4ff}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:28px 20px "
    "60px;background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6em;margin:0 0 4px}h2{font-size:1.15em;margin:32px 0 8px}p{margin:6px 0}.dim{color:var(--dim)}\n"
    "code{font:13px ui-monospace,Menlo,Consolas,monospace}\n"
    ".cards{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}.card{flex:1 1 150px;background:var(--card);border:1px "
    "solid var(--line);"
    "border-radius:8px;padding:12px 14px}.card b{display:block;font-size:1.7em;line-height:1.2}\n"
    ".verdict{border-left:4px solid var(--off);background:var(--card);padding:10px 14px;border-radius:4px}"
    ".verdict.ok{border-color:var(--trap)}\n"
    ".wrap{overflow-x:auto;border:1px solid "
    "var(--line);border-radius:8px}table{border-collapse:collapse;width:100%;background:var(--card)}\n"
    "th,td{padding:5px 10px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child "
    "td{border-bottom:0}\n"
    "th{background:var(--head);font-weight:600;white-space:nowrap}th button{all:unset;cursor:pointer}th "
    "button:focus-visible{outline:2px "
    "solid var(--info)}\n"
    "th[aria-sort=ascending] button:after{content:\" \\25b2\"}th[aria-sort=descending] button:after{content:\" "
    "\\25bc\"}\n"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}.v{font-weight:600;white-space:nowrap}\n"
    ".v0,.v1{color:var(--trap)}.v2,.v7,.v8{color:var(--info)}.v3{color:var(--dim)}.v4,.v5,.v9{color:var(--off)}.v6{"
    "color:var(--warn)}\n"
    ".set span{display:inline-block;margin:2px 4px 2px 0;padding:0 7px;border:1px solid var(--line);border-radius:10px;"
    "background:var(--card);font:12.5px ui-monospace,monospace}.set span.ri{border-color:var(--off)}\n"
    "</style></head><body>\n";

/* Sorting by a column: its cells' data-k, or their text. */
static const char tail[] =
    "<script>\n"
    "for(const t of document.querySelectorAll('table.sort'))t.querySelectorAll('th').forEach((h,i)=>{\n"
    " const b=document.createElement('button');b.textContent=h.textContent;h.textContent='';h.append(b);\n"
    " b.onclick=()=>{const d=h.getAttribute('aria-sort')==='ascending'?-1:1;\n"
    "  "
    "t.querySelectorAll('th').forEach(x=>x.removeAttribute('aria-sort'));h.setAttribute('aria-sort',d>0?'ascending':'"
    "descending');\n"
    "  const k=r=>{const c=r.cells[i];return c.dataset.k??c.textContent};\n"
    "  const "
    "rows=[...t.tBodies[0].rows].sort((x,y)=>d*k(x).localeCompare(k(y),'en',{numeric:true}));t.tBodies[0].append(..."
    "rows)}});\n"
    "</script>\n</body></html>\n";

static void esc(FILE *f, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        default: fputc(*s, f);
        }
    }
}

static void card(FILE *f, unsigned n, const char *what)
{
    fprintf(f, "<div class=\"card\"><b>%u</b>%s</div>\n", n, what);
}

static void result_row(FILE *f, const struct probe_result *r)
{
    char cls[8], name[24];
    unsigned pg = r->row ? r->row->pg : 0;
    fprintf(f, "<tr><td data-k=\"%u%u%u%u\">%s</td><td>%s</td><td class=\"n\">%s</td><td><code>",
            !(pg & X86_PG_PRIVILEGED), !(pg & X86_PG_CONTROL), !(pg & X86_PG_BEHAVIOUR), !(pg & X86_PG_ROBIN_IRVINE),
            lab_class(pg, cls), r->row ? probe_pretty(r->row->name, name) : "?", r->m32 ? "32" : "64");
    esc(f, r->c->form);
    fprintf(f, "</code></td><td class=\"v v%u\">%s</td><td class=\"n\" data-k=\"%u\">", r->verdict,
            probe_verdict_name[r->verdict], r->cycles);
    if (r->cycles)
        fprintf(f, "%u", r->cycles);
    fputs("</td><td>", f);
    esc(f, r->text);
    fputs("</td></tr>\n", f);
}

static void offenders(const struct probe_report *rep, FILE *f)
{
    char cls[8], name[24];
    fputs("<h2>What each engine does about an offender</h2>\n<div class=\"wrap\"><table><tbody>\n", f);
    for (unsigned i = 0; ringer_engines[i]; i++) {
        fprintf(f, "<tr><th>%s</th><td>", ringer_engines[i]->name);
        esc(f, lab_engine_remedy(ringer_engines[i], X86_OP_INVALID));
        fprintf(f, "</td><td>%s</td></tr>\n", lab_engine_usable(ringer_engines[i], NULL, 0) ? "" : "not usable on this host");
    }
    fputs("</tbody></table></div>\n<h2>Offenders</h2>\n<div class=\"wrap\"><table class=\"sort\"><thead><tr>"
          "<th>instruction</th><th>class</th><th>what a guest would see</th><th>engines that differ</th></tr></thead><tbody>\n",
          f);
    for (unsigned i = 0; i < rep->nops; i++) {
        const struct probe_op *o = &rep->op[i];
        if (!probe_offender(o))
            continue;
        fprintf(f, "<tr><td>%s</td><td>%s</td><td><code>", probe_pretty(o->name, name), lab_class(o->pg, cls));
        esc(f, o->witness->c->form);
        fprintf(f, "</code> (%s-bit): ", o->witness->m32 ? "32" : "64");
        esc(f, o->witness->text);
        fprintf(f, "%s</td><td>", o->configurable ? " <span class=\"dim\">(a host setting makes it trap)</span>" : "");
        for (unsigned k = 0; ringer_engines[k]; k++) {
            const char *how = lab_engine_remedy(ringer_engines[k], o->op);
            if (!strcmp(how, lab_engine_remedy(ringer_engines[k], X86_OP_INVALID)))
                continue;
            fprintf(f, "<b>%s</b>: ", ringer_engines[k]->name);
            esc(f, how);
            fputs("<br>", f);
        }
        fputs("</td></tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

static void sets(const struct probe_report *rep, FILE *f)
{
    char name[24];
    fputs("<h2>The sets</h2>\n<p class=\"dim\">By mnemonic. Outlined in red: of Robin and Irvine's list (2000).</p>\n",
          f);
    for (unsigned s = 0; s < SET_COUNT; s++) {
        fprintf(f, "<p class=\"set\"><b>");
        esc(f, probe_sets[s].title);
        fprintf(f, "</b>: %u<br>", probe_count(rep, s));
        for (unsigned i = 0; i < rep->nops; i++)
            if (probe_in(&rep->op[i], s))
                fprintf(f, "<span%s>%s</span>", rep->op[i].pg & X86_PG_ROBIN_IRVINE ? " class=\"ri\"" : "",
                        probe_pretty(rep->op[i].name, name));
        fputs("</p>\n", f);
    }
}

void probe_print_html(const struct probe_report *rep, FILE *f)
{
    char line[600];
    unsigned off = probe_count(rep, SET_OFFENDERS_FOUND), ri[2] = {0};
    probe_robin_irvine(rep, ri);
    fputs(head, f);
    fputs("<h1>Popek and Goldberg on this CPU</h1>\n<p class=\"dim\">", f);
    esc(f, rep->cpu);
    fputs("<br>", f);
    esc(f, rep->kernel);
    fputs("; ", f);
    esc(f, probe_facts(rep, line, sizeof(line)));
    fputs("</p>\n<div class=\"cards\">\n", f);
    card(f, rep->nresults, "forms executed at CPL 3");
    card(f, probe_count(rep, SET_P_FOUND), "instructions always trapped (P)");
    card(f, probe_count(rep, SET_S_TABLE), "are sensitive (S)");
    card(f, off, "sensitive, not trapping (S \\ P)");
    card(f, ri[1], "of them on Robin and Irvine&rsquo;s list");
    fprintf(f, "</div>\n<p class=\"verdict%s\">", off ? "" : " ok");
    probe_verdict(rep, line, sizeof(line));
    esc(f, line);
    fputs("</p>\n", f);
    offenders(rep, f);
    fputs("<h2>Every form tried</h2>\n<p class=\"dim\">P privileged, C control-sensitive, B behaviour-sensitive, ! of "
          "Robin and "
          "Irvine&rsquo;s list. Cycles: least of some runs, with fences and set-up. A heading sorts.</p>\n"
          "<div class=\"wrap\"><table "
          "class=\"sort\"><thead><tr><th>class</th><th>instruction</th><th>mode</th><th>form</th><th>outcome</th>"
          "<th>cycles</th><th>what happened</th></tr></thead><tbody>\n",
          f);
    for (unsigned i = 0; i < rep->nresults; i++)
        result_row(f, &rep->result[i]);
    fputs("</tbody></table></div>\n", f);
    sets(rep, f);
    fputs(tail, f);
}
