package app

import (
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/shipping"
)

// openShipping has this node's trail sent to a log collector, where there is one.
func (a *App) openShipping() error {
	o := a.cfg.Trail.OTLP
	if o == nil {
		return nil
	}
	send, err := shipping.Collector{URL: string(o.Endpoint), Roots: string(o.Roots), TokenFile: string(o.TokenFile)}.Sender()
	if err != nil {
		return err
	}
	c := shipping.Config{
		Node: a.cfg.Node, Version: a.version, Trail: filepath.Join(string(a.cfg.State), "trail"), Store: a.store, Send: send, Log: a.log, Metrics: a.metrics,
	}
	if o.Decisions {
		c.Decisions = decisionsDir(a.cfg)
	}
	a.shipper, err = shipping.New(c)
	return err
}
