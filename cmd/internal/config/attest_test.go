package config

import (
	"strings"
	"testing"
	"time"
)

func TestAttest(t *testing.T) {
	for text, want := range map[string]time.Duration{"": time.Minute, "attest: {interval: 10s}": 10 * time.Second, "attest: {interval: 0}": 0, "attest: {interval: 0s}": 0} {
		c, err := Parse([]byte(minimal+text+"\n"), "f")
		if err != nil || c.Attest.Interval.Every() != want || c.TPM.NodeKey != Resident || c.TPM.SealCache {
			t.Errorf("%q: %s, %v; %v", text, c.Attest.Interval.Every(), c.TPM, err)
		}
	}
	c, err := Parse([]byte(minimal+"tpm: {node_key: attested, seal_cache: true}\n"), "f")
	if err != nil || c.TPM.NodeKey != InMemory || !c.TPM.SealCache {
		t.Errorf("%+v, %v", c.TPM, err)
	}
	for _, text := range []string{"attest: {interval: 10}", "attest: {interval: -1s}", "attest: {interval: 10ms}", "attest: {interval: 48h}", "tpm: {node_key: file}", "tpm: {seal_cache: perhaps}"} {
		if _, err := Parse([]byte(minimal+text+"\n"), "f"); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
