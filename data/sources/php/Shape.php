<?php

interface Shape
{
    public function area(): float;
}

final class Square implements Shape
{
    public function __construct(private float $side)
    {
    }

    public function area(): float
    {
        return $this->side ** 2;
    }
}

$shapes = [new Square(2), new Square(3)];
for ($i = 0; $i < count($shapes); $i++) {
    printf("%.1f\n", $shapes[$i]->area());
}
