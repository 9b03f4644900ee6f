LIB_SRC += $(wildcard dev/virtio/*.c)
