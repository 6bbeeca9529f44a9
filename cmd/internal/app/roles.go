package app

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

var (
	// ErrMetricsPort means the address for metrics is taken.
	ErrMetricsPort = errors.New("the address for metrics cannot be used: stop what holds it, or change metrics.listen")
)

// openAuthority starts the region's authority on this node and publishes what
// the configuration says: the authority record and the service names.
func openAuthority(c config.Config, region string, st *store.Store, approvers func() authority.Approvers) (*authority.Authority, *authority.Key, error) {
	key, err := authority.OpenKey(string(c.Authority.Keys))
	if err != nil {
		return nil, nil, err
	}
	a, err := authority.New(key, c.Node, authority.Regional, st, approvers)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	_, err = a.SetRecord(now, authority.Record{
		Level: authority.Regional, Region: region, Master: c.Node,
		Autonomy: authority.Autonomy{CanOperateIsolated: true, CanModifyPolicies: true},
		Sync:     authority.Sync{Upstream: region, Frequency: time.Second, Mode: "both", BatchSize: 64, RetryPolicy: "exponential"},
		Lease:    authority.LeaseTerms{Duration: c.Authority.Lease, Degraded: authority.Mode(c.Authority.Degraded)},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("authority record: %w", err)
	}
	for _, s := range c.Authority.Services {
		if _, err := a.SetService(now, authority.Service{Name: s.Name, IDs: s.Workloads}); err != nil {
			return nil, nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return a, key, nil
}

// provedInput puts what other evidence than a quote proved into the words of policy.
func provedInput(self *policy.Peer, method string, a issuer.Attested, now time.Time) policy.Input {
	in := policy.Input{
		V: policy.InputVersion, Kind: policy.AttestNode, Time: policy.Time{Unix: now.Unix(), Trusted: true}, Self: self,
		Attest: &policy.Attest{Method: method},
	}
	if a.EKHash != ([32]byte{}) { // then its certificate was verified
		in.Attest.EK = policy.EK{Maker: a.Maker, SHA256: hex.EncodeToString(a.EKHash[:]), ChainOK: true}
	}
	return in
}

// attestInput puts verified claims into the words of policy.
func attestInput(self *policy.Peer, c tpm.Claims, now time.Time) policy.Input {
	pcrs := map[string]string{}
	for i, d := range c.PCRs {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(d[:])
	}
	digests := map[string][]string{}
	for pcr, list := range c.Boot.Digests {
		for _, d := range list {
			digests[strconv.Itoa(pcr)] = append(digests[strconv.Itoa(pcr)], hex.EncodeToString(d[:]))
		}
	}
	return policy.Input{
		V: policy.InputVersion, Kind: policy.AttestNode,
		Time: policy.Time{Unix: now.Unix(), Trusted: true}, Self: self,
		Attest: &policy.Attest{
			Method: "bailiwick_tpm", Key: keyMode(c),
			EK: policy.EK{
				Maker: c.EKMaker, Model: c.EKModel, Firmware: c.EKFirmware,
				SHA256: hex.EncodeToString(c.EKHash[:]), ChainOK: c.EKChain,
			},
			PCRs: pcrs,
			Boot: &policy.Boot{
				SecureBoot: c.Boot.SecureBoot, SecureBootOff: c.Boot.SecureBootOff,
				CommandLines: c.Boot.CommandLines, Strings: c.Boot.Strings, Digests: digests,
				Explained: c.Boot.Explained, Unexplained: c.Boot.Unexplained,
			},
			ResetCount: c.ResetCount, RestartCount: c.RestartCount,
			Starts: c.Counters.Starts, Epoch: c.Counters.Epoch,
		},
	}
}

// keyMode is where an enrolling node's key is; nothing where the claims do not say.
func keyMode(c tpm.Claims) string {
	switch {
	case c.Resident:
		return string(config.Resident)
	case c.NodeKey != nil:
		return string(config.InMemory)
	}
	return ""
}
