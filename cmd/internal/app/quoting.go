package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// quoting proves again and again what this machine runs, to whoever reads its feed:
// once for each beacon of the region's authority, and where none comes, once for
// each interval, bound to the last.
type quoting struct {
	app      *App
	interval time.Duration
	done     *prometheus.CounterVec
	log      *slog.Logger
}

func newQuoting(a *App) *quoting {
	return &quoting{app: a, interval: a.cfg.Attest.Interval.Every(), log: a.log,
		done: promauto.With(a.metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_attest_quotes_total", Help: "Quotes of this node's TPM for its peers, by result.",
		}, []string{"result"})}
}

// pace says when to quote. It is pure.
type pace struct {
	interval time.Duration
	offset   time.Duration // after a beacon, so that a region does not quote in step
	seen     uint64        // the newest beacon so far
	seenAt   time.Time
	quoted   uint64 // the beacon of the last quote
	quotedAt time.Time
}

// due takes in the newest beacon and reports whether to quote now.
func (p *pace) due(now time.Time, beacon uint64) bool {
	if beacon == 0 {
		return false
	}
	if beacon != p.seen {
		p.seen, p.seenAt = beacon, now
	}
	if p.quotedAt.IsZero() {
		return true
	}
	return p.seen != p.quoted && now.Sub(p.seenAt) >= p.offset || now.Sub(p.quotedAt) >= p.interval+p.interval/4
}

// run quotes until ctx ends. A TPM that fails is tried again; peers see that nothing
// comes.
func (q *quoting) run(ctx context.Context) error {
	a := q.app
	if q.interval == 0 || !a.machine.attested() {
		<-ctx.Done()
		return nil
	}
	seed := fnv.New64a()
	seed.Write([]byte(a.cfg.Node.String()))
	p := pace{interval: q.interval, offset: time.Duration(seed.Sum64() % uint64(q.interval/8))}
	tick := time.NewTicker(min(q.interval/8, time.Second))
	defer tick.Stop()
	said := ""
	for {
		s, _, _ := newestBeacon(a.ownBook(), a.ownRegion())
		now := time.Now()
		if p.due(now, s.Version) {
			err := q.quote(ctx, s)
			if ctx.Err() != nil {
				return nil
			}
			p.quoted, p.quotedAt = s.Version, now
			result, text := "ok", ""
			if err != nil {
				result, text = "failed", err.Error()
				p.quotedAt = now.Add(-q.interval) // again a quarter of an interval later
			}
			q.done.WithLabelValues(result).Inc()
			if text != said && err != nil {
				q.log.Error("this node cannot prove to its peers what its machine runs", "err", err)
			}
			said = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// quote writes the newest evidence, and before it what it cannot be judged without.
func (q *quoting) quote(ctx context.Context, beacon authority.Signed) error {
	a := q.app
	endorsement := a.creds.now().endorsement
	if len(endorsement) == 0 {
		return errNoEndorsement
	}
	log, err := bootLog(string(a.cfg.TPM.BootLog))
	if err != nil {
		return err
	}
	ops, err := machineOps(a.replica.Get, a.cfg.Node, endorsement, log)
	if err != nil {
		return err
	}
	for _, op := range ops {
		if _, err := a.replica.Put(ctx, op); err != nil {
			return fmt.Errorf("publish %s: %w", op.Key, err)
		}
	}
	r := evidenceRecord{Beacon: beacon.Raw, Epoch: a.creds.now().inUse}
	frontier, _, err := a.replica.Frontier(ctx)
	if err != nil {
		return err
	}
	head := frontier[feed.FeedID{Origin: a.cfg.Node, Epoch: r.Epoch}]
	r.Seq, r.Head = head.Seq, head.ID
	qualifier := tpm.EpochQualifier(beacon.Digest, a.cfg.Node.String(), r.Head)
	if r.Evidence, err = a.machine.keys.Quote(qualifier, sha256.Sum256(log)); err != nil {
		return err
	}
	value, err := statement.Marshal(r)
	if err != nil {
		return err
	}
	_, err = a.replica.Put(ctx, feed.Op{Key: feed.KeyOf(a.cfg.Node, feed.KindAttestation, evidenceName), Action: feed.Put, Value: value, Scope: feed.ScopeRegion})
	return err
}

var errNoEndorsement = errors.New("the issuer has not endorsed this node's attestation key yet")

// beacons publishes the region's beacon where this node is its authority.
func (a *App) beacons(ctx context.Context) error {
	interval := a.cfg.Attest.Interval.Every()
	if a.authority == nil || interval == 0 {
		<-ctx.Done()
		return nil
	}
	wait := time.Duration(0)
	if _, b, ok := newestBeacon(a.ownBook(), a.ownRegion()); ok {
		wait = min(max(0, interval-time.Since(b.At)), interval)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = interval
		s, err := a.authority.Beacon(time.Now(), a.ownRegion())
		if err != nil {
			a.log.Error("beacon", "err", err)
			continue
		}
		a.dir.object(s.Raw)
	}
}

func (a *App) ownBook() *authority.Book { return a.dir.book(a.cfg.Node.TrustDomain()) }

func (a *App) ownRegion() string { return a.dir.region(a.cfg.Node.TrustDomain()) }
