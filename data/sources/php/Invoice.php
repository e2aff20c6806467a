<?php

class Invoice
{
    private $prices = [];
    public $owner;

    public function __construct(string $owner)
    {
        $this->owner = $owner;
    }

    public function add(float $price): void
    {
        $this->prices[] = $price;
    }

    public function total(): float
    {
        $sum = 0;
        foreach ($this->prices as $price) {
            $sum += $price;
        }
        return $sum;
    }
}
