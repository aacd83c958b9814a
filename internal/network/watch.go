package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchTables calls removed whenever an nftables table was removed, and when it may have missed that, until ctx ends.
func watchTables(ctx context.Context, removed func()) error {
	const deltable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	sock, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return fmt.Errorf("watching nftables: %w", err)
	}
	defer context.AfterFunc(ctx, sock.Close)()
	defer sock.Close()
	removed() // it may have happened before the subscription
	for {
		messages, _, err := sock.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // messages were lost
			removed()
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("watching nftables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type == deltable {
				removed()
				break
			}
		}
	}
}
