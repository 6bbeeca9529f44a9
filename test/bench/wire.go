package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

const (
	stockServer = "spire-server " + spireVersion + ", sqlite and keys on disk"
	stockAgent  = "spire-agent " + spireVersion
	entriesEach = 1000
	agents      = 16 // that ask for SVIDs: our issuer gives each a share
	entriesOf   = 100
	storm       = 500
	pair        = "loopback, both cores shared with the client, which is the same code for both; ours is `bailiwick run` with all that a node is, and keeps a leaf on disk of all it signs; SPIRE's rate limits are off; "
)

var wireBenches = []bench{
	{
		area: "identity", name: "x509-svids-wire", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 1, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 4, 1, 1200) },
	},
	{
		area: "identity", name: "x509-svids-wire-busy", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 1, 64 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 64, 1, 2400) },
	},
	{
		area: "identity", name: "x509-svids-wire-100", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 100, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 4, 100, 2000) },
	},
	{
		area: "identity", name: "jwt-svids-wire", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "NewJWTSVID, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 4, 0, 1200) },
	},
	{
		area: "identity", name: "jwt-svids-wire-busy", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "NewJWTSVID, 64 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 64, 0, 2400) },
	},
	{
		area: "identity", name: "entry-syncs", unit: "syncs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "SyncAuthorizedEntries of 1,000 entries that are new to the caller, in pages, 4 at once; the client does not decode them",
		prepare: entrySyncs,
	},
	{
		area: "identity", name: "reconnect-storm", unit: "seconds", goal: 0.5, reference: stockServer,
		note:    pair + "500 agents connect at once and call RenewAgent, until the last one has its new SVID",
		prepare: reconnectStorm,
	},
	{
		area: "identity", name: "attest-join-token", unit: "ms", goal: 0.5, reference: stockServer,
		note:    pair + "connection, AttestAgent and SVID, one after another",
		prepare: attestTokens,
	},
	{
		area: "identity", name: "attest-tpm", unit: "ms", goal: 0.5, reference: stockServer + ", plugin tpm_devid",
		note:    pair + "the same software TPM and client library; ours is bailiwick_tpm, which also certifies three keys, quotes PCRs and has a boot log judged by policy",
		prepare: attestTPM,
	},
	{
		area: "identity", name: "first-svid", unit: "seconds", goal: 0.5, reference: stockAgent,
		note:    "exec of a node that was never here, to the first X.509-SVID from its Workload API: ours `bailiwick run`, which makes its keys in a software TPM and attests with it, the reference by join token with keys on disk, each with its own server, which is warm",
		prepare: firstSVID,
	},
	{
		area: "identity", name: "rss-node", unit: "MB resident", goal: 0.5, reference: stockAgent,
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, false) },
	},
	{
		area: "identity", name: "rss-issuer", unit: "MB resident", goal: 0.5, reference: stockServer,
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, true) },
	},
}

// connected is a machine with a connection and what it found there.
type connected struct {
	*machine
	conn    *grpc.ClientConn
	entries []*types.Entry // of workloads
}

// newConnected makes n machines with some entries each on both servers.
func newConnected(dir string, s size, n, entries int) (ours, stock []*connected, stop func(), err error) {
	a, b, end, err := newPair(dir, s, demand{machines: n, with: n, workloads: entries, selector: "uid:1"})
	if err != nil {
		return nil, nil, nil, err
	}
	if ours, err = a.connect(n, entries); err == nil {
		stock, err = b.connect(n, entries)
	}
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	return ours, stock, func() {
		for _, c := range slices.Concat(ours, stock) {
			_ = c.conn.Close()
		}
		end()
	}, nil
}

func (s *server) connect(n, want int) (out []*connected, err error) {
	all, err := s.joinAll(n)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		c := &connected{machine: m}
		if c.conn, err = m.dial(); err != nil {
			return nil, err
		}
		entries, err := m.sync(context.Background(), c.conn)
		if err != nil {
			return nil, err
		}
		c.entries = slices.DeleteFunc(entries, func(e *types.Entry) bool { return !strings.HasPrefix(e.GetSpiffeId().GetPath(), "/w") })
		if len(c.entries) != want {
			return nil, fmt.Errorf("%d entries, want %d", len(c.entries), want)
		}
		out = append(out, c)
	}
	return out, nil
}

// calls makes n calls, some at once, for one machine after the other, and returns
// how many things a second that is, each call being worth each.
func calls(all []*connected, callers, n, each int, call func(ctx context.Context, c *connected, i int) error) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return perSecond(n*each, func() error {
		g, ctx := errgroup.WithContext(ctx)
		for k := range callers {
			g.Go(func() error {
				for i := k; i < n; i += callers {
					if err := call(ctx, all[i%len(all)], i/len(all)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
}

// signing measures SVIDs: X.509 in batches, or JWT where batch is 0.
func signing(dir string, s size, callers, batch, count int) (sides, error) {
	ours, stock, stop, err := newConnected(dir, s, agents, entriesOf)
	if err != nil {
		return sides{}, err
	}
	side := func(all []*connected) (func() (float64, error), error) {
		if batch == 0 {
			return func() (float64, error) {
				return calls(all, callers, count, 1, func(ctx context.Context, c *connected, i int) error {
					return signJWT(ctx, c.conn, c.entries[i%entriesOf].GetId())
				})
			}, nil
		}
		params := map[*connected][]*svidv1.NewX509SVIDParams{}
		for _, c := range all {
			for _, e := range c.entries {
				_, csr, err := request(spiffeid.RequireFromPath(region, e.GetSpiffeId().GetPath()))
				if err != nil {
					return nil, err
				}
				params[c] = append(params[c], &svidv1.NewX509SVIDParams{EntryId: e.GetId(), Csr: csr})
			}
		}
		return func() (float64, error) {
			return calls(all, callers, count/batch, batch, func(ctx context.Context, c *connected, i int) error {
				from := i * batch % entriesOf
				return sign(ctx, c.conn, params[c][from:from+batch])
			})
		}, nil
	}
	out := sides{stop: stop}
	if out.ours, err = side(ours); err == nil {
		out.reference, err = side(stock)
	}
	if err != nil {
		stop()
	}
	return out, err
}

func entrySyncs(dir string, s size) (sides, error) {
	ours, stock, stop, err := newConnected(dir, s, 1, entriesEach)
	if err != nil {
		return sides{}, err
	}
	side := func(all []*connected) func() (float64, error) {
		return func() (float64, error) {
			return calls(all, 4, 200, 1, func(ctx context.Context, c *connected, _ int) error {
				n, err := countEntries(ctx, c.conn)
				if err == nil && n < entriesEach {
					err = fmt.Errorf("%d entries, want %d", n, entriesEach)
				}
				return err
			})
		}
	}
	return sides{ours: side(ours), reference: side(stock), stop: stop}, nil
}

func reconnectStorm(dir string, s size) (sides, error) {
	a, b, stop, err := newPair(dir, s, demand{machines: storm})
	if err != nil {
		return sides{}, err
	}
	out := sides{stop: stop}
	for _, side := range []struct {
		*server
		round *func() (float64, error)
	}{{a, &out.ours}, {b, &out.reference}} {
		machines, err := side.joinAll(storm)
		if err != nil {
			stop()
			return sides{}, err
		}
		*side.round = func() (float64, error) {
			keys, err := newKeys(len(machines))
			if err != nil {
				return 0, err
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return seconds(func() error {
				var g errgroup.Group
				for i, m := range machines {
					g.Go(func() error { return m.renew(ctx, keys[i].key, keys[i].csr) })
				}
				return g.Wait()
			})
		}
	}
	return out, nil
}

func attestTokens(dir string, s size) (sides, error) {
	const each = 10
	a, b, stop, err := newPair(dir, s, demand{machines: each * (rounds + 1)})
	if err != nil {
		return sides{}, err
	}
	side := func(s *server) func() (float64, error) {
		next := 0
		return func() (float64, error) {
			keys, err := newKeys(each)
			if err != nil {
				return 0, err
			}
			us, err := micros(each, func() error {
				for _, k := range keys {
					m := machine{s: s, from: address(next)}
					if err := m.attest(context.Background(), s.join[next], k.key, k.csr); err != nil {
						return err
					}
					next++
				}
				return nil
			})
			return us / 1000, err
		}
	}
	return sides{ours: side(a), reference: side(b), stop: stop}, nil
}
