// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What wallets' libraries are tried on.
contract Counter {
    uint256 public count;

    event Counted(address indexed by, uint256 count);

    error TooMuch(uint256 asked, uint256 most);

    constructor(uint256 first) {
        count = first;
    }

    function add(uint256 amount) external {
        require(amount != 0, "nothing to add");
        if (amount > 100) revert TooMuch(amount, 100);
        count += amount;
        emit Counted(msg.sender, count);
    }
}
