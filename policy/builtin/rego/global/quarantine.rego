# METADATA
# title: By which thresholds a node contains its peers
# description: The numbers are data. Go keeps them within bounds that no policy moves, and keeps to
#   its own where no level allows any. A region that was delegated this kind may say its own.
# labels:
#   owner: bailiwick
package bailiwick.global.quarantine

import rego.v2

# METADATA
# title: The thresholds of the policy's data
allow contains "from-data" if data.quarantine

thresholds["from-data"] := data.quarantine
