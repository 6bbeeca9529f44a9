package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

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
	seenAt   time.Time     // when the first one after the last quote came
	quoted   uint64        // the beacon of the last quote
	quotedAt time.Time
}

// due takes in the newest beacon and reports whether to quote now.
func (p *pace) due(now time.Time, beacon uint64) bool {
	if beacon == 0 {
		return false
	}
	if p.seen == p.quoted && beacon != p.seen {
		p.seenAt = now
	}
	p.seen = beacon
	if p.quotedAt.IsZero() {
		return true
	}
	since := now.Sub(p.quotedAt)
	news := p.seen != p.quoted && now.Sub(p.seenAt) >= p.offset
	return news && since >= p.interval-p.interval/8+p.offset || since >= p.interval+p.interval/4
}

// run quotes until ctx ends. A TPM that fails is tried again; peers see that nothing
// comes.
func (q *quoting) run(ctx context.Context) error {
	a := q.app
	if q.interval == 0 || !a.machine.Attested() {
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
	endorsement := a.creds.Now().Endorsement
	if len(endorsement) == 0 {
		return errNoEndorsement
	}
	log, err := a.machine.BootLog()
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
	r := evidenceRecord{Beacon: beacon.Raw, Epoch: a.creds.Now().InUse}
	frontier, _, err := a.replica.Frontier(ctx)
	if err != nil {
		return err
	}
	head := frontier[feed.FeedID{Origin: a.cfg.Node, Epoch: r.Epoch}]
	r.Seq, r.Head = head.Seq, head.ID
	qualifier := tpm.EpochQualifier(beacon.Digest, a.cfg.Node.String(), r.Head)
	if r.Evidence, err = a.machine.Prover().Quote(qualifier, sha256.Sum256(log)); err != nil {
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

// checkpointEvery is the most time between beacons, however seldom nodes quote: what is
// signed under a certificate must be covered within feed.CoverGrace of its end.
const checkpointEvery = time.Minute

// beaconEvery is the time between beacons of a region whose nodes quote once an interval;
// 0: never.
func beaconEvery(quotes time.Duration) time.Duration {
	return min(cmp.Or(quotes, checkpointEvery), checkpointEvery)
}

// beacons publishes the region's beacon where this node is its authority: a
// checkpoint of the frontier, and covers for the feeds whose certificates end.
func (a *App) beacons(ctx context.Context) error {
	if a.authority == nil {
		<-ctx.Done()
		return nil
	}
	interval := beaconEvery(a.cfg.Attest.Interval.Every())
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
		if err := a.beacon(ctx, time.Now(), interval); err != nil && ctx.Err() == nil {
			a.log.Error("beacon", "err", err)
		}
	}
}

func (a *App) beacon(ctx context.Context, now time.Time, every time.Duration) error {
	heads, root, err := a.replica.Frontier(ctx)
	if err != nil {
		return err
	}
	s, err := a.authority.Beacon(now, a.ownRegion(), root, heads.Size())
	if err != nil {
		return err
	}
	a.dir.object(s.Raw)
	ops, err := a.replica.Covers(ctx, s.Raw, now, every, heads)
	for piece := range slices.Chunk(ops, coversAtOnce) {
		_, werr := a.replica.Put(ctx, piece...)
		err = errors.Join(err, werr)
	}
	return err
}

// coversAtOnce fit into one record, whatever their size.
const coversAtOnce = feed.MaxBody / (feed.MaxCover + feed.MaxKey + 64)

// checkpoint verifies a beacon for package replica.
func (a *App) checkpoint(signed []byte, td spiffeid.TrustDomain) (feed.Checkpoint, error) {
	s, err := authority.Open(signed, td, a.dir.authorityKeys(td))
	if err != nil {
		return feed.Checkpoint{}, err
	}
	b, err := s.Beacon()
	return feed.Checkpoint{Root: b.Root, Feeds: b.Feeds, At: b.At}, err
}

func (a *App) ownBook() *authority.Book { return a.dir.book(a.cfg.Node.TrustDomain()) }

func (a *App) ownRegion() string { return a.dir.region(a.cfg.Node.TrustDomain()) }
