/* Split virtqueues against a hostile and a well-behaved driver, without a transport. */
#include "tests/unit/virtio_fixture.h"

struct vt {
    struct virtio_dev v;
    struct fix *f;
    unsigned kicks, resets, signals, config_signals;
};

static void vt_kick(struct virtio_dev *v, unsigned q)
{
    ((struct vt *)v)->kicks++;
}
static void vt_reset(struct virtio_dev *v, int q)
{
    ((struct vt *)v)->resets++;
}
static void vt_fini(struct virtio_dev *v)
{
    free(v);
}
static const struct virtio_ops vt_ops = {.name = "vt", .id = 9, .kick = vt_kick, .reset = vt_reset, .fini = vt_fini};
static void vt_signal(void *t, int q)
{
    struct vt *v = t;
    if (q < 0)
        v->config_signals++;
    else
        v->signals++;
}

#define NUM 16
#define F_ALL (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET)

static void up(struct vt *t, uint64_t features, uint16_t num)
{
    struct fix *f = t->f;
    virtio_set_status(&t->v, 0);
    t->v.master = true;
    t->v.features = features;
    virtio_set_status(&t->v, 11);
    assert_int_equal(t->v.status, 11);
    memset(at(f, RING(0)), 0, 0x10000);
    f->q[0] = (struct drv_queue){.num = num, .desc = RING(0), .avail = RING(0) + 0x4000, .used = RING(0) + 0x8000};
    struct virtqueue *q = &t->v.vq[0];
    assert_true(vq_set_size(q, num));
    q->desc = f->q[0].desc;
    q->avail = f->q[0].avail;
    q->used = f->q[0].used;
    vq_enable(q);
    assert_true(q->enabled);
    virtio_set_status(&t->v, 15);
    t->kicks = t->signals = t->config_signals = 0;
}

static int setup(void **st)
{
    struct vt *t = calloc(1, sizeof *t);
    static const uint16_t sizes[] = {256, 64};
    t->f = fix_new();
    virtio_init(&t->v, &vt_ops, &t->f->env, 0x5, 2, sizes);
    t->v.signal = vt_signal;
    t->v.transport = t;
    up(t, F_ALL, NUM);
    *st = t;
    return 0;
}
static int teardown(void **st)
{
    struct vt *t = *st;
    fix_free(t->f);
    free(t);
    return 0;
}

static void test_direct(void **st)
{
    struct vt *t = *st;
    struct vq_elem e;
    char buf[64];
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 0);
    memcpy(at(t->f, HEAP), "hello ", 6);
    memcpy(at(t->f, HEAP + 100), "world", 5);
    struct seg s[] = {
        {HEAP, 6, false}, {HEAP + 50, 0, false}, {HEAP + 100, 5, false}, {HEAP + 200, 4, true}, {HEAP + 300, 8, true}};
    uint16_t head = add_chain(t->f, 0, s, 5);
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 1);
    assert_true(e.head == head && e.nout == 2 && e.nin == 2 && e.out_len == 11 && e.in_len == 12);
    memset(buf, 0, sizeof buf);
    assert_int_equal(vq_read(&e, 0, buf, sizeof buf), 11);
    assert_string_equal(buf, "hello world");
    memset(buf, 0, sizeof buf);
    assert_int_equal(vq_read(&e, 4, buf, 4), 4);
    assert_string_equal(buf, "o wo");
    assert_int_equal(vq_read(&e, 11, buf, 4), 0);
    t->f->dirty_bytes = 0;
    assert_int_equal(vq_write(&t->v, &e, 2, "abcdefgh", 8), 8);
    assert_int_equal(t->f->dirty_bytes, 8);
    assert_memory_equal(at(t->f, HEAP + 200), "\0\0ab", 4);
    assert_memory_equal(at(t->f, HEAP + 300), "cdefgh\0\0", 8);
    assert_int_equal(vq_write(&t->v, &e, 10, "12345", 5), 2);
    vq_push(&t->v.vq[0], e.head, 12);
    uint32_t id = 0, len = 0;
    assert_false(get_used(t->f, 0, &id, &len));
    vq_publish(&t->v.vq[0]);
    assert_true(get_used(t->f, 0, &id, &len));
    assert_true(id == head && len == 12);
    assert_int_equal(t->signals, 1);
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 0);
}

static void test_indirect(void **st)
{
    struct vt *t = *st;
    struct fix *f = t->f;
    struct vq_elem e;
    uint64_t tab = HEAP + 0x1008; /* no alignment is asked of it */
    put_desc(f, tab, 0, HEAP, 16, D_NEXT, 2);
    put_desc(f, tab, 2, HEAP + 32, 100, D_NEXT | D_WRITE, 1);
    put_desc(f, tab, 1, HEAP + 512, 7, D_WRITE, 0);
    put_desc(f, RING(0), 3, HEAP + 0x100, 4, D_NEXT, 4);
    put_desc(f, RING(0), 4, tab, 48, D_INDIRECT | D_WRITE, 0); /* WRITE is ignored here */
    make_avail(f, 0, 3);
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 1);
    assert_true(e.nout == 2 && e.nin == 2 && e.out_len == 20 && e.in_len == 107);
    assert_true(e.seg[0].gpa == HEAP + 0x100 && e.seg[1].gpa == HEAP && e.seg[3].gpa == HEAP + 512);
    /* the longest one allowed */
    for (unsigned i = 0; i < VQ_MAX_SEGS; i++)
        put_desc(f, tab, i, HEAP, 1, i + 1 < VQ_MAX_SEGS ? D_NEXT : 0, (uint16_t)(i + 1));
    put_desc(f, RING(0), 0, tab, 16 * VQ_MAX_SEGS, D_INDIRECT, 0);
    make_avail(f, 0, 0);
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 1);
    assert_int_equal(e.nout, VQ_MAX_SEGS);
}

/* Each entry breaks the device in its own way. */
static void test_malformed(void **st)
{
    struct vt *t = *st;
    struct fix *f = t->f;
    struct vq_elem e;
    for (unsigned k = 0; k < 18; k++) {
        uint64_t tab = HEAP + 0x1000, feat = F_ALL;
        if (k == 11)
            feat &= ~VIRTIO_F_INDIRECT_DESC;
        up(t, feat, NUM);
        uint16_t head = 0;
        put_desc(f, RING(0), 0, HEAP, 8, 0, 0);
        switch (k) {
        case 0: put_desc(f, RING(0), 0, HEAP, 8, D_NEXT, 0); break; /* loop of one */
        case 1:                                                     /* loop of two */
            put_desc(f, RING(0), 0, HEAP, 8, D_NEXT, 1);
            put_desc(f, RING(0), 1, HEAP, 8, D_NEXT, 0);
            break;
        case 2: put_desc(f, RING(0), 0, HEAP, 8, D_NEXT, NUM); break; /* next outside */
        case 3: head = NUM; break;                                    /* head outside */
        case 4: head = 0xffff; break;
        case 5: put_desc(f, RING(0), 0, 0, 8, 0, 0); break; /* no RAM */
        case 6: put_desc(f, RING(0), 0, MEM_BASE + MEM_SIZE - 4, 8, 0, 0); break;
        case 7: put_desc(f, RING(0), 0, ~7ull, 16, D_WRITE, 0); break; /* wraps */
        case 8:                                                        /* readable after writable */
            put_desc(f, RING(0), 0, HEAP, 8, D_NEXT | D_WRITE, 1);
            put_desc(f, RING(0), 1, HEAP, 8, 0, 0);
            break;
        case 9: put_desc(f, RING(0), 0, tab, 24, D_INDIRECT, 0); break; /* size */
        case 10: put_desc(f, RING(0), 0, tab, 0, D_INDIRECT, 0); break;
        case 11: put_desc(f, RING(0), 0, tab, 16, D_INDIRECT, 0); break; /* not negotiated */
        case 12: put_desc(f, RING(0), 0, tab, 16, D_INDIRECT | D_NEXT, 1); break;
        case 13: /* nested */
            put_desc(f, RING(0), 0, tab, 16, D_INDIRECT, 0);
            put_desc(f, tab, 0, tab, 16, D_INDIRECT, 0);
            break;
        case 14: /* next outside of the table */
            put_desc(f, RING(0), 0, tab, 16, D_INDIRECT, 0);
            put_desc(f, tab, 0, HEAP, 8, D_NEXT, 1);
            break;
        case 15: put_desc(f, RING(0), 0, 0x10, 16, D_INDIRECT, 0); break; /* table no RAM */
        case 16:                                                          /* too long */
            for (unsigned i = 0; i <= VQ_MAX_SEGS; i++)
                put_desc(f, tab, i, HEAP, 1, i < VQ_MAX_SEGS ? D_NEXT : 0, (uint16_t)(i + 1));
            put_desc(f, RING(0), 0, tab, 16 * (VQ_MAX_SEGS + 1), D_INDIRECT, 0);
            break;
        case 17: f->q[0].avail_idx = NUM; break; /* index ahead by NUM + 1 */
        }
        make_avail(f, 0, head);
        unsigned logs = f->logs;
        if (vq_pop(&t->v.vq[0], &e) != -1 || !(t->v.status & VIRTIO_S_NEEDS_RESET))
            fail_msg("case %u was accepted", k);
        assert_int_equal(t->config_signals, 1);
        assert_int_equal(f->logs, logs + 1);
        assert_int_equal(vq_pop(&t->v.vq[0], &e), -1);
        assert_false(vq_want(&t->v.vq[0]));
        virtio_kick(&t->v, 0);
        assert_int_equal(t->kicks, 0);
        assert_int_equal(f->logs, logs + 1);
        virtio_set_status(&t->v, 15); /* only a reset helps */
        assert_true(t->v.status & VIRTIO_S_NEEDS_RESET);
    }
    up(t, F_ALL, NUM);
    t->kicks = 0;
    struct seg s = {HEAP, 1, false};
    add_chain(f, 0, &s, 1);
    assert_int_equal(vq_pop(&t->v.vq[0], &e), 1);
}

/* Every index value, with queue sizes from 1 up: signalling as the specification's formula on full-width counters says.
 */
static void test_event_idx(void **st)
{
    struct vt *t = *st;
    struct fix *f = t->f;
    struct vq_elem e;
    uint32_t id = 0, len = 0;
    static const uint16_t nums[] = {1, 2, 16, 256};
    uint32_t rnd = 1;
    for (unsigned k = 0; k < 4; k++) {
        up(t, F_ALL, nums[k]);
        struct virtqueue *q = &t->v.vq[0];
        uint64_t done = 0, want = 0; /* interrupt wanted when entry `want` is used */
        while (done < 70000) {
            unsigned batch = 1 + (rnd = rnd * 1103515245 + 12345) / 65536 % nums[k];
            struct seg s = {HEAP, 4, true};
            for (unsigned i = 0; i < batch; i++)
                add_chain(f, 0, &s, 1);
            p16(f, q->avail + 4 + 2 * nums[k], (uint16_t)want);
            assert_true(vq_want(q));
            assert_int_equal(g16(f, q->used + 4 + 8 * nums[k]), (uint16_t)done); /* avail_event */
            unsigned before = t->signals;
            for (unsigned i = 0; i < batch; i++) {
                assert_int_equal(vq_pop(q, &e), 1);
                vq_push(q, e.head, i);
            }
            assert_int_equal(vq_pop(q, &e), 0);
            vq_publish(q);
            vq_publish(q); /* nothing new: nothing happens */
            for (unsigned i = 0; i < batch; i++) {
                assert_true(get_used(f, 0, &id, &len));
                assert_int_equal(len, i);
            }
            assert_false(get_used(f, 0, &id, &len));
            bool expect = want >= done && want < done + batch;
            assert_int_equal(t->signals - before, expect);
            done += batch;
            if (want < done)
                want = done - 1 + (rnd = rnd * 1103515245 + 12345) / 65536 % (2 * nums[k]); /* sometimes just missed */
            assert_false(vq_want(q));
        }
    }
}

static void test_flags(void **st)
{
    struct vt *t = *st;
    struct vq_elem e;
    up(t, F_ALL & ~VIRTIO_F_EVENT_IDX, NUM);
    struct virtqueue *q = &t->v.vq[0];
    struct seg s = {HEAP, 4, true};
    vq_spare(q);
    assert_int_equal(g16(t->f, q->used), 1);
    for (unsigned no = 0; no < 2; no++) {
        p16(t->f, q->avail, (uint16_t)no);
        add_chain(t->f, 0, &s, 1);
        assert_true(vq_want(q));
        assert_int_equal(g16(t->f, q->used), 0);
        assert_int_equal(vq_pop(q, &e), 1);
        vq_push(q, e.head, 0);
        vq_publish(q);
        assert_int_equal(t->signals, 1); /* the second time it is not wanted */
        assert_false(vq_want(q));
    }
}

static void test_setup_rules(void **st)
{
    struct vt *t = *st;
    struct virtqueue *q = &t->v.vq[0];
    struct vq_elem e;
    assert_false(vq_set_size(q, 8)); /* enabled */
    virtio_set_status(&t->v, 0);
    assert_true(!q->enabled && q->num == 256 && q->desc == 0 && t->v.status == 0 && t->v.features == 0);
    assert_int_equal(vq_pop(q, &e), -1);
    assert_false(vq_set_size(q, 0));
    assert_false(vq_set_size(q, 3));
    assert_false(vq_set_size(q, 512));
    assert_true(vq_set_size(q, 1));
    q->desc = RING(0);
    q->avail = RING(0) + 0x100;
    q->used = RING(0) + 0x200;
    vq_enable(q); /* before FEATURES_OK */
    assert_false(q->enabled);
    /* negotiation */
    virtio_set_status(&t->v, 11);
    assert_int_equal(t->v.status, 3); /* VERSION_1 is missing */
    t->v.features = VIRTIO_F_VERSION_1 | 2;
    virtio_set_status(&t->v, 11);
    assert_int_equal(t->v.status, 3); /* 2 was not offered */
    virtio_set_status(&t->v, 7);
    assert_int_equal(t->v.status, 3); /* DRIVER_OK needs FEATURES_OK */
    t->v.features = VIRTIO_F_VERSION_1 | 4;
    virtio_set_status(&t->v, 11 | 64);
    assert_int_equal(t->v.status, 11);
    virtio_set_status(&t->v, 1);
    assert_int_equal(t->v.status, 11); /* no bit is taken back */
    static const struct {
        uint64_t desc, avail, used;
    } bad[] = {{RING(0) + 8, RING(0), RING(0)},
               {RING(0), RING(0) + 1, RING(0)},
               {RING(0), RING(0), RING(0) + 2},
               {0, RING(0), RING(0)},
               {RING(0), MEM_BASE + MEM_SIZE - 4, RING(0)},
               {RING(0), RING(0), ~3ull}};
    for (unsigned i = 0; i < 6; i++) {
        q->desc = bad[i].desc;
        q->avail = bad[i].avail;
        q->used = bad[i].used;
        vq_enable(q);
        assert_true(!q->enabled && (t->v.status & VIRTIO_S_NEEDS_RESET));
        t->v.status &= (uint8_t)~VIRTIO_S_NEEDS_RESET;
    }
    assert_int_equal(t->config_signals, 0); /* not before DRIVER_OK */
}

static void test_live(void **st)
{
    struct vt *t = *st;
    struct vq_elem e;
    struct seg s = {HEAP, 4, true};
    struct virtqueue *q = &t->v.vq[0];
    add_chain(t->f, 0, &s, 1);
    t->kicks = 0;
    virtio_set_master(&t->v, false);
    virtio_kick(&t->v, 0);
    assert_int_equal(t->kicks, 0);
    assert_int_equal(vq_pop(q, &e), -1);
    virtio_set_master(&t->v, true); /* looks at every queue */
    assert_int_equal(t->kicks, 1);
    virtio_kick(&t->v, 1); /* not enabled */
    virtio_kick(&t->v, 2); /* does not exist */
    assert_int_equal(t->kicks, 1);
    assert_int_equal(vq_pop(q, &e), 1);
    t->resets = 0;
    vq_reset(q);
    assert_int_equal(t->resets, 1);
    assert_true(!q->enabled && q->num == 256 && (t->v.status & VIRTIO_S_DRIVER_OK));
    vq_push(q, e.head, 0); /* a completion too late goes nowhere */
    vq_publish(q);
    assert_int_equal(g16(t->f, RING(0) + 0x8002), 0);
    virtio_config_changed(&t->v);
    assert_int_equal(t->v.config_gen, 1);
    assert_int_equal(t->config_signals, 1);
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_direct), T(test_indirect),    T(test_malformed), T(test_event_idx),
        T(test_flags),  T(test_setup_rules), T(test_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
