package governing

import (
	"context"
	"crypto/ecdsa"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// A level that is without news for too long refuses what is new, for as long as that lasts.
func TestStaleMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		st := openStore(t, filepath.Join(dir, "db"))
		global, region := p256(t), p256(t)
		td, valid := self.TrustDomain(), provision.ValidFor(24*time.Hour)
		delegation, err := provision.Delegate(global, trust.Record{TrustDomain: td, PolicyKey: &region.PublicKey}, builtin.Regional("east").Delegation, valid)
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config{Node: self}
		for i, l := range builtin.Dev("east") {
			content, err := bundle.Content{Modules: l.Modules, Data: l.Data}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			s := provision.Policy{Level: l.Name, Scope: bundle.ScopeMesh, Version: 1, Author: "spiffe://east.dev.example/operator", Content: content}
			key, path := global, filepath.Join(dir, l.Name)
			if c.Policy.Global = config.Path(path); i == 1 {
				c.Policy.Global, c.Policy.Region = config.Path(filepath.Join(dir, policy.Global)), config.Path(path)
				s.Scope, s.Delegations, key = td.Name(), [][]byte{delegation}, region
				s.MaxStaleness, s.StaleMode = time.Minute, bundle.StaleDenyNew
			}
			b, err := s.Sign(key, valid)
			if err == nil {
				err = provision.WriteFile(path, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		engine := policy.New(policy.Config{})
		p := New(c, engine, st, []*ecdsa.PublicKey{&global.PublicKey}, decision.New(decision.Config{Store: st}).Change, slog.New(slog.DiscardHandler))
		if err := p.Open(); err != nil {
			t.Fatal(err)
		}
		var heard atomic.Pointer[time.Time]
		news := func() { now := time.Now(); heard.Store(&now) }
		news()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- p.WatchStaleness(ctx, func(now time.Time) time.Duration { return now.Sub(*heard.Load()) })
		}()
		fresh := engine.Revision()
		for _, step := range []struct {
			wait  time.Duration
			stale bool
		}{{59 * time.Second, false}, {3 * time.Second, true}, {time.Hour, true}} {
			time.Sleep(step.wait)
			synctest.Wait()
			if stale := p.StaleAt(policy.Regional) == policy.DenyNew; stale != step.stale || strings.Contains(engine.Revision(), "regional@1~deny_new") != step.stale {
				t.Fatalf("%v after the news: stale %v, revision %s", time.Since(*heard.Load()), stale, engine.Revision())
			}
		}
		news()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if engine.Revision() != fresh {
			t.Errorf("after news the revision is %s, was %s", engine.Revision(), fresh)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
