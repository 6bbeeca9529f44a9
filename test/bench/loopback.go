package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/test/sim"
)

// Rows of a region of real processes on loopback: what the simulator leaves out.

const (
	loopbackNodes  = 20
	loopbackWrites = 60
	loopbackEvery  = 100 * time.Millisecond
	loopbackIdle   = time.Minute
)

var loopbackBenches = func() (out []bench) {
	for _, f := range []struct {
		name string
		ours func(loopback) float64
		sim  func(sim.Result) float64
	}{
		{"p50", func(l loopback) float64 { return l.at(0.5) }, func(r sim.Result) float64 { return r.P50 }},
		{"p99", func(l loopback) float64 { return l.at(0.99) }, func(r sim.Result) float64 { return r.P99 }},
		{"last", func(l loopback) float64 { return l.at(1) }, func(r sim.Result) float64 { return r.Last }},
	} {
		out = append(out, bench{
			area: "gossip", name: "loopback-" + f.name, unit: "ms from a write by the local API until a watch of another node tells of it", once: true, disk: true,
			reference: "test/sim for as many nodes, on links of 0.25 to 0.75 ms, with a processor each",
			note:      "20 real processes of bailiwick run on loopback, all on the cores of this machine",
			prepare: func(dir string, s size) (sides, error) {
				if s == tiny {
					return sides{}, errTiny
				}
				var l loopback
				return sides{
					ours: func() (v float64, err error) {
						l, err = measureLoopback(dir)
						return f.ours(l), err
					},
					reference: func() (float64, error) {
						r, err := deliver(loopbackNodes, 0)
						return f.sim(r), err
					},
					note: func() string { return l.note },
				}, nil
			},
		})
	}
	return out
}()

// loopback is what was measured.
type loopback struct {
	times []time.Duration // of all writes at all other nodes, ascending
	note  string
}

// at is the smallest time, in ms, that share of them are not above.
func (l loopback) at(share float64) float64 {
	if len(l.times) == 0 {
		return 0
	}
	return inMS(l.times[max(int(share*float64(len(l.times)))-1, 0)])
}

// onLoopback is the measurement of this run, once for all rows.
var onLoopback loopback

func measureLoopback(dir string) (l loopback, err error) {
	if onLoopback.times != nil {
		return onLoopback, nil
	}
	s, err := newServer(dir, true)
	if err != nil {
		return l, err
	}
	defer s.stop()
	if err := s.startOurs(demand{machines: loopbackNodes - 1}); err != nil {
		return l, err
	}
	conf, err := os.ReadFile(filepath.Join(dir, "node.yaml"))
	if err != nil {
		return l, err
	}
	listen := regexp.MustCompile(`listen: ("127[^"]+")`).FindSubmatch(conf)
	if listen == nil {
		return l, errors.New("the first node's file lacks mesh.listen")
	}
	s.meet = string(listen[1])
	procs, sockets := []*process{s.proc}, []string{filepath.Join(s.sockets, "c.sock")}
	for i := range loopbackNodes - 1 {
		n, err := s.startNode(i, false)
		if err != nil {
			return l, err
		}
		defer n.stop()
		procs, sockets = append(procs, n.proc), append(sockets, filepath.Join(filepath.Dir(n.socket), "c.sock"))
	}
	clients := make([]*client.Client, len(sockets))
	for i, socket := range sockets {
		clients[i] = client.New(socket)
		defer clients[i].Close()
	}
	if err := until(s.proc, func() error { return allKnown(clients) }); err != nil {
		return l, err
	}
	time.Sleep(5 * time.Second) // they have just met
	before, err := total(procs)
	if err != nil {
		return l, err
	}
	syncs := countSyncs(procs[1])
	time.Sleep(loopbackIdle)
	idleSyncs := syncs()
	idle, err := total(procs)
	if err != nil {
		return l, err
	}
	syncs = countSyncs(procs[1])
	if l.times, err = writeAndWatch(clients); err != nil {
		return l, err
	}
	busySyncs := syncs()
	after, err := total(procs)
	if err != nil {
		return l, err
	}
	var resident []float64
	for _, p := range procs {
		m, err := p.memory()
		if err != nil {
			return l, err
		}
		resident = append(resident, m.resident)
	}
	each := func(d time.Duration, n int) time.Duration { return (d / time.Duration(n)).Round(10 * time.Microsecond) }
	l.note = fmt.Sprintf("; a node at rest: %s of processor time and %s a minute, %.0f MB resident (median); a write: %s of processor time at each node, the API's and the watch's among it, and %s at one that did not write, for %d writes %s apart",
		each(idle-before, len(procs)), idleSyncs, median(resident), each(after-idle, len(procs)*loopbackWrites), busySyncs, loopbackWrites, loopbackEvery)
	onLoopback = l
	return l, nil
}

// allKnown reports what is missing until every node holds every node's record.
func allKnown(clients []*client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for i, c := range clients {
		items, _, _, err := c.List(ctx, "/node/")
		if err != nil {
			return err
		}
		known := 0
		for _, it := range items {
			if strings.HasSuffix(it.Key, "/node/self") {
				known++
			}
		}
		if known < len(clients) {
			return fmt.Errorf("node %d knows %d of %d", i, known, len(clients))
		}
	}
	return nil
}

// writeAndWatch writes at the nodes in turn and returns how long each write took to
// each other node's watch.
func writeAndWatch(clients []*client.Client) (times []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var mu sync.Mutex
	sent := map[string]time.Time{}
	want := loopbackWrites * (len(clients) - 1)
	done := make(chan struct{})
	var ready, wait sync.WaitGroup
	ready.Add(len(clients))
	for i, c := range clients {
		wait.Go(func() {
			begun := sync.OnceFunc(ready.Done)
			defer begun()
			for e, err := range c.Watch(ctx, "/node/", 0) {
				now := time.Now()
				if err != nil {
					return
				}
				if e.Kind == client.Synced {
					begun()
				}
				mark, _, ours := strings.Cut(string(e.Item.Value), "|")
				if e.Kind != client.Written || !ours || mark == strconv.Itoa(i) {
					continue
				}
				mu.Lock()
				if at, ok := sent[string(e.Item.Value)]; ok {
					if times = append(times, now.Sub(at)); len(times) == want {
						close(done)
					}
				}
				mu.Unlock()
			}
		})
	}
	ready.Wait()
	for i := range loopbackWrites {
		at := i % len(clients)
		items, _, v, err := clients[at].List(ctx, "/none/")
		if err != nil || len(items) > 0 {
			return nil, fmt.Errorf("node %d: %d items, %w", at, len(items), err)
		}
		value := fmt.Sprintf("%d|%d|%s", at, i, strings.Repeat("x", 200))
		mu.Lock()
		sent[value] = time.Now()
		mu.Unlock()
		if _, err := clients[at].Put(ctx, v.Of.Path()+"/x-bench/k", []byte(value), client.Region); err != nil {
			return nil, err
		}
		time.Sleep(loopbackEvery)
	}
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%d of %d came", len(times), want)
	}
	cancel()
	wait.Wait()
	slices.Sort(times)
	return times, err
}

// total is the processor time of all.
func total(procs []*process) (sum time.Duration, err error) {
	for _, p := range procs {
		t, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// countSyncs counts what a process waits for the disk for, until the function
// returned is called, which tells.
func countSyncs(p *process) func() string {
	path, err := exec.LookPath("strace")
	if err != nil {
		return func() string { return "an unknown number of syncs (no strace here)" }
	}
	var out strings.Builder
	cmd := exec.Command(path, "-f", "-q", "-e", "trace=fsync,fdatasync", "-p", strconv.Itoa(p.cmd.Process.Pid))
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		return func() string { return "an unknown number of syncs (" + err.Error() + ")" }
	}
	return func() string {
		_ = cmd.Process.Signal(syscall.SIGINT) // it lets go and ends
		_ = cmd.Wait()                         // by a signal
		return fmt.Sprintf("%d syncs of the disk", strings.Count(out.String(), "sync(")-strings.Count(out.String(), "resumed"))
	}
}
