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
	pair        = "loopback, all cores shared with the client, which is the same code for both and no more than the call takes; ours is `bailiwick run` with all that a node is, and keeps a leaf on disk of all it signs; SPIRE's rate limits are off; "
)

var wireBenches = []bench{
	{
		area: "identity", name: "x509-svids-wire", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 1, 4 calls at once, in turn for 16 agents with 100 entries each; each waits for the disk here, none there",
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
		note:    pair + "NewJWTSVID, 4 calls at once, in turn for 16 agents with 100 entries each; each waits for the disk here, none there",
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
		note:    pair + "500 agents connect at once and call RenewAgent, until the last one has its answer; the client verifies the server's certificate once, and reads the SVIDs when the clock has stopped",
		prepare: reconnectStorm,
	},
	{
		area: "identity", name: "attest-join-token", unit: "ms", goal: 0.5, reference: stockServer,
		note:    pair + "connection, AttestAgent and SVID, one after another, of which the client reads the SVIDs when the clock has stopped; ours waits for the disk at each, spire-server at none: its sqlite does not sync a commit (strace counts no sync in ten attestations); TCP and TLS 1.3 with X25519MLKEM768, which no server can leave out, are a good part of both figures",
		prepare: attestTokens,
	},
	{
		area: "identity", name: "attest-tpm", unit: "ms", goal: 0.5, reference: stockServer + ", plugin tpm_devid",
		note:    pair + "the same software TPM and client library; ours is bailiwick_tpm, which also certifies two keys and two counters, quotes PCRs and has a boot log judged by policy: 19 commands of the TPM one after another, of which two decrypt by its RSA key and six sign",
		prepare: attestTPM,
	},
	{
		area: "identity", name: "first-svid", unit: "seconds", goal: 0.5, reference: stockAgent,
		note:    "exec of a node that was never here, to the first X.509-SVID from its Workload API: join token and keys on disk on both sides, each with its own server, which is warm; strace counts some 20 disk syncs of our node until then, eight of them at once, and 12 of spire-agent",
		prepare: func(dir string, s size) (sides, error) { return firstSVID(dir, s, false) },
	},
	{
		area: "identity", name: "first-svid-tpm", unit: "seconds", goal: 0.5, reference: stockAgent + ", plugin tpm_devid",
		note:    "the same with one software TPM for both: ours makes its keys in it and is judged by them and its boot log, the reference has its DevID already",
		prepare: func(dir string, s size) (sides, error) { return firstSVID(dir, s, true) },
	},
	{
		area: "identity", name: "rss-node", unit: "MB resident", goal: 0.5, reference: stockAgent,
		note:    "ours gives memory and its program's clean pages back when it comes to rest; most of what is resident of either is the program's file; ",
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, false) },
	},
	{
		area: "identity", name: "rss-issuer", unit: "MB resident", goal: 0.5, reference: stockServer,
		note:    "ours gives memory and its program's clean pages back when it comes to rest; ",
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, true) },
	},
}

// connected is a machine with a connection and what it found there.
type connected struct {
	*machine
	conn    *grpc.ClientConn
	entries []*types.Entry // of workloads
	lines   map[int]*lean  // one for each goroutine that calls
}

// line is the connection of goroutine k, opened at its first call.
func (c *connected) line(ctx context.Context, k int) (on *lean, err error) {
	if on = c.lines[k]; on == nil {
		if on, err = c.machine.connect(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
		c.lines[k] = on
	}
	deadline, _ := ctx.Deadline()
	return on, on.conn.SetDeadline(deadline)
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
			for _, on := range c.lines {
				on.close()
			}
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
		c := &connected{machine: m, lines: map[int]*lean{}}
		if c.conn, err = m.dial(); err != nil {
			return nil, err
		}
		entries, err := m.sync(context.Background(), c.conn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name(), err)
		}
		c.entries = slices.DeleteFunc(entries, func(e *types.Entry) bool { return !strings.HasPrefix(e.GetSpiffeId().GetPath(), "/w") })
		if len(c.entries) != want {
			return nil, fmt.Errorf("%s: %d entries, want %d", s.name(), len(c.entries), want)
		}
		out = append(out, c)
	}
	return out, nil
}

// calls makes n calls, some at once, for one machine after the other, and returns
// how many things a second that is, each call being worth each.
func calls(all []*connected, callers, n, each int, call func(c *connected, on *lean, i int) error) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lines := make([][]*lean, callers) // of each caller, by machine
	for k := range lines {
		lines[k] = make([]*lean, len(all))
		for i := k; i < n; i += callers {
			if m := i % len(all); lines[k][m] == nil {
				var err error
				if lines[k][m], err = all[m].line(ctx, k); err != nil {
					return 0, err
				}
			}
		}
	}
	defer rarely()()
	return perSecond(n*each, func() error {
		var g errgroup.Group
		for k := range callers {
			g.Go(func() error {
				for i := k; i < n; i += callers {
					m := i % len(all)
					if err := call(all[m], lines[k][m], i/len(all)); err != nil {
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
				return calls(all, callers, count, 1, func(c *connected, on *lean, i int) error {
					return signJWT(on, c.entries[i%entriesOf].GetId())
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
			return calls(all, callers, count/batch, batch, func(c *connected, on *lean, i int) error {
				from := i * batch % entriesOf
				return sign(on, params[c][from:from+batch])
			})
		}, nil
	}
	out := sides{stop: stop, procs: [2]*process{ours[0].s.proc, stock[0].s.proc}, ops: count}
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
			return calls(all, 4, 200, 1, func(_ *connected, on *lean, _ int) error {
				n, err := countEntries(on)
				if err == nil && n < entriesEach {
					err = fmt.Errorf("%d entries, want %d", n, entriesEach)
				}
				return err
			})
		}
	}
	return sides{ours: side(ours), reference: side(stock), stop: stop, procs: [2]*process{ours[0].s.proc, stock[0].s.proc}, ops: 200}, nil
}

func reconnectStorm(dir string, s size) (sides, error) {
	a, b, stop, err := newPair(dir, s, demand{machines: storm})
	if err != nil {
		return sides{}, err
	}
	out := sides{stop: stop, procs: [2]*process{a.proc, b.proc}, ops: storm}
	for i, side := range []struct {
		*server
		round *func() (float64, error)
	}{{a, &out.ours}, {b, &out.reference}} {
		machines, err := side.joinAll(storm)
		if err != nil {
			stop()
			return sides{}, err
		}
		var keys []csrKey
		out.ready[i] = func() (err error) {
			keys, err = newKeys(len(machines))
			return err
		}
		*side.round = func() (float64, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			answers := make([]*types.X509SVID, len(machines))
			defer rarely()()
			v, err := seconds(func() error {
				var g errgroup.Group
				for i, m := range machines {
					g.Go(func() (err error) {
						answers[i], err = m.renew(ctx, keys[i].csr)
						return err
					})
				}
				return g.Wait()
			})
			for i := 0; i < len(machines) && err == nil; i++ {
				err = machines[i].take(answers[i], keys[i].key)
			}
			return v, err
		}
	}
	return out, nil
}

func attestTokens(dir string, s size) (sides, error) {
	const each = 40
	a, b, stop, err := newPair(dir, s, demand{machines: each * (rounds + 1 + mostRepeats)})
	if err != nil {
		return sides{}, err
	}
	out := sides{stop: stop, procs: [2]*process{a.proc, b.proc}, ops: each}
	side := func(s *server, ready *func() error) func() (float64, error) {
		next := 0
		var keys []csrKey
		*ready = func() (err error) {
			keys, err = newKeys(each)
			return err
		}
		return func() (float64, error) {
			machines, answers := make([]machine, each), make([]*types.X509SVID, each)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			defer rarely()()
			us, err := micros(each, func() (err error) {
				for i, k := range keys {
					machines[i] = machine{s: s, from: address(next)}
					join, err := s.token(next)
					if err != nil {
						return err
					}
					next++ // it serves once, whatever comes
					if answers[i], err = machines[i].attest(ctx, join, k.csr); err != nil {
						return err
					}
				}
				return nil
			})
			for i := 0; i < each && err == nil; i++ {
				err = machines[i].take(answers[i], keys[i].key)
			}
			return us / 1000, err
		}
	}
	out.ours, out.reference = side(a, &out.ready[byOurs]), side(b, &out.ready[byReference])
	return out, nil
}
